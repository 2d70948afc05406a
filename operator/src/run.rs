//! From the command line to a running controller, and back.
//!
//! Responsible for the order of start and end: endpoints first, the console among them where it is wanted, then the lead,
//! then the controllers; at the end the controllers finish what they have begun, and the lead is given back. Must never
//! let a controller run without the lead: when it is lost, the process ends and starts anew.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::admin::Admin;
use crate::api::schema;
use crate::console;
use crate::controller::{self, Common};
use crate::lease::Elector;
use crate::manifests::OPERATOR;
use crate::validate::Defaults;
use crate::workers;

/// What begun reconciles have to finish.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new definition may take until it is served.
const CRD_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two requests of [`check`].
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// What `run` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "CRASHMONITOR_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The workers' image, where a resource names none.
    #[arg(long, env = "CRASHMONITOR_WORKER_IMAGE")]
    worker_image: Option<String>,
    /// Namespaces to watch, comma-separated; none: all.
    #[arg(long, env = "CRASHMONITOR_WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Where the console is served: a page that shows monitors at work, and users with crashes, to whoever reaches it.
    /// None: nowhere.
    #[arg(long, env = "CRASHMONITOR_CONSOLE_LISTEN")]
    console_listen: Option<SocketAddr>,
    /// Names under which the console may be asked, comma-separated, beside addresses and names within the cluster.
    #[arg(long, env = "CRASHMONITOR_CONSOLE_HOSTS", value_delimiter = ',')]
    console_hosts: Vec<String>,
    /// The namespace of the operator and of its Lease; default: that of the client's configuration.
    #[arg(long, env = "POD_NAMESPACE")]
    leader_election_namespace: Option<String>,
    /// The name of the Lease.
    #[arg(long, default_value = OPERATOR)]
    leader_election_lease: String,
    /// This operator among its peers; default: the host's name.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
}

/// A future that several can wait for.
type Signal = Shared<BoxFuture<'static, ()>>;

/// Runs until SIGTERM, SIGINT or the loss of the lead.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = shutdown_signal()?;
    let admin = Admin::default();
    let address =
        admin.serve(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    let client = Client::try_default().await.context("no cluster: set KUBECONFIG, or run in a pod")?;
    let identity = options.identity.clone().unwrap_or_else(hostname);
    let home = options.leader_election_namespace.as_deref().unwrap_or(client.default_namespace()).to_string();
    tracing::info!(%address, identity, version = env!("CARGO_PKG_VERSION"), "started");
    tokio::select! {
        version = reach(&client) => tracing::info!(kubernetes = version, "the API server answers"),
        () = shutdown.clone() => return Ok(()),
    }
    let worker_image = options.worker_image.clone().filter(|image| !image.is_empty());
    let has_console = options.console_listen.is_some();
    let defaults = Defaults { worker_image, operator_namespace: home.clone(), console: has_console };
    if let Some(listen) = options.console_listen {
        let settings = console::Settings {
            listen,
            hosts: named(&options.console_hosts),
            namespaces: named(&options.watch_namespaces),
        };
        let address = console::start(client.clone(), settings, defaults.clone()).await;
        let address = address.with_context(|| format!("--console-listen {listen}"))?;
        tracing::info!(%address, "the console is served");
    }
    admin.set_ready();
    let leases: Api<Lease> = Api::namespaced(client.clone(), &home);
    let mut elector = Elector::new(leases, &options.leader_election_lease, &identity);
    tokio::select! {
        () = elector.acquire() => tracing::info!(lease = options.leader_election_lease, "leading"),
        () = shutdown.clone() => return Ok(()),
    }
    admin.metrics.set_leader(true);
    let common = Common { client, defaults, identity, admin: admin.clone() };
    let controllers = controllers(&options.watch_namespaces, &common, &shutdown);
    let mut controllers = Box::pin(controllers);
    tokio::select! {
        () = elector.keep() => anyhow::bail!("the lead was lost; starting anew"),
        () = &mut controllers => {}
        () = shutdown.clone() => {
            tracing::info!("finishing");
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, controllers).await.is_err() {
                tracing::warn!("not everything was finished within {} s", SHUTDOWN_TIMEOUT.as_secs());
            }
        }
    }
    admin.metrics.set_leader(false);
    if let Err(error) = elector.release().await {
        tracing::warn!("the Lease can't be given back, another operator takes over when it expires: {error}");
    }
    Ok(())
}

/// A controller for each namespace, or one for all.
async fn controllers(namespaces: &[String], common: &Common, shutdown: &Signal) {
    let named = named(namespaces);
    let namespaces =
        if named.is_empty() { vec![None] } else { named.iter().map(|name| Some(name.as_str())).collect() };
    let run = |namespace| controller::run(common.clone(), namespace, shutdown.clone());
    join_all(namespaces.into_iter().map(run)).await;
}

/// What a list of names has, without the blanks and holes of one that was put together.
fn named(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Waits for the API server's first answer: its version.
async fn reach(client: &Client) -> String {
    let mut pause = Duration::from_millis(250);
    loop {
        match client.apiserver_version().await {
            Ok(version) => return version.git_version,
            Err(error) => tracing::warn!("the API server does not answer: {error}; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn shutdown_signal() -> anyhow::Result<Signal> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let waited = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // In a task of its own: whoever waits need not be looked at for the signal to be noticed.
    let waited = tokio::spawn(waited).map(|_| ());
    Ok(waited.boxed().shared())
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { OPERATOR.to_string() } else { name.trim().to_string() }
}

/// Brings the custom resource definition to the cluster and waits until it is served.
pub async fn apply_crds() -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no cluster: set KUBECONFIG, or run in a pod")?;
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let crd = schema::crd();
    let name = crd.name_any();
    api.patch(&name, &PatchParams::apply(OPERATOR).force(), &Patch::Apply(&crd))
        .await
        .context(name.clone())?;
    let established = await_condition(api, &name, conditions::is_crd_established());
    within(CRD_TIMEOUT, established).await.context("the API server does not serve it")??;
    println!("{name} applied");
    Ok(())
}

async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(timeout, future)
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", timeout.as_secs()))
}

/// Asks a URL once a second until it answers, for as long as `timeout`: a Service leads nowhere until a pod behind it is
/// ready and each node knows that. The last failure is the error.
pub async fn check(url: &str, timeout: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + timeout;
    loop {
        match workers::get(url).await {
            Ok(answer) => {
                println!("{}", answer.trim_end());
                return Ok(());
            }
            Err(failure) if matches!(failure, workers::Error::Url) || Instant::now() >= until => {
                return Err(failure).with_context(|| url.to_string());
            }
            Err(failure) => tracing::info!(%failure, url, "asked again in a second"),
        }
        tokio::time::sleep(CHECK_PAUSE).await;
    }
}

/// Sends log lines to standard error, as text or as one JSON object each; `RUST_LOG` chooses which.
pub fn init_logging(as_json: bool) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if as_json { lines.json().flatten_event(true).init() } else { lines.with_ansi(false).init() }
}
