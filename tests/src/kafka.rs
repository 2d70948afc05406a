//! A real Kafka: one or several brokers on this host, each a JVM of its own.
//!
//! Responsible for formatting, starting, stopping, killing, pausing and restarting brokers, and for saying when one
//! is ready: when it answers a metadata request that names all running brokers and, with all of them running, a
//! leader for each partition. Must never create a topic on its own and never change a port or lose data while it
//! lives: a restarted broker is the same broker.
//!
//! The brokers are KRaft brokers and controllers at once. Of an even number, the last is a broker only: a quorum of
//! two would be no better than one. So of two, the first may not go for long.

mod properties;

use crate::certificates::{Certificates, ServerCertificate};
use crate::home::Dir;
use crate::ports::Port;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::tools::jars;
use crate::topics::Topics;
use crate::wait::try_until;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use rustix::process::Signal;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The version whose jars `scripts/fetch-kafka` fetches.
pub const VERSION: &str = "4.1.2";

const FORMAT_TIMEOUT: Duration = Duration::from_secs(60);
const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How clients reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Neither encryption nor authentication; every broker has this listener.
    Plaintext,
    /// TLS, the server is authenticated.
    Ssl,
    /// A user and a password, in the clear.
    SaslPlaintext,
    /// A user and a password, under TLS.
    SaslSsl,
}

impl Security {
    /// Kafka's name of the protocol, which is also the value of `security.protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Security::Plaintext => "PLAINTEXT",
            Security::Ssl => "SSL",
            Security::SaslPlaintext => "SASL_PLAINTEXT",
            Security::SaslSsl => "SASL_SSL",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Security::Ssl | Security::SaslSsl)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Security::SaslPlaintext | Security::SaslSsl)
    }
}

/// What to start. [`Kafka::builder`] gives the defaults: one broker, a plaintext listener, a small heap.
#[derive(Debug, Clone)]
pub struct Builder {
    brokers: usize,
    listeners: Vec<Security>,
    users: Vec<(String, String)>,
    properties: Vec<(String, String)>,
    heap: String,
    full_compiler: bool,
    host: Ipv4Addr,
    racks: bool,
    server: ServerCertificate,
    proxies: bool,
    certified_host: Option<Ipv4Addr>,
}

impl Builder {
    /// The number of brokers; topics get as many replicas unless they say otherwise.
    pub fn brokers(mut self, brokers: usize) -> Builder {
        assert!(brokers > 0, "a Kafka without brokers");
        self.brokers = brokers;
        self
    }

    /// A line of server.properties; it wins over what the test bed sets.
    pub fn property(mut self, key: &str, value: &str) -> Builder {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a listener. Those with SASL take PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
    pub fn listener(mut self, security: Security) -> Builder {
        if security != Security::Plaintext && !self.listeners.contains(&security) {
            self.listeners.push(security);
        }
        self
    }

    /// Adds a user for all SASL mechanisms.
    pub fn user(mut self, name: &str, password: &str) -> Builder {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// The address of this host that brokers listen on and clients are sent to; the default is loopback. Pods reach
    /// only another one.
    fn host(mut self, host: Ipv4Addr) -> Builder {
        self.host = host;
        self
    }

    /// One that pods reach at this address of the host. Beside a whole cluster a broker may get no processor for seconds:
    /// it must not be taken for dead then.
    pub fn for_pods(self, host: Ipv4Addr) -> Builder {
        self.host(host).property("broker.session.timeout.ms", "60000")
    }

    /// Puts broker n into the rack `rack-n`.
    pub fn racks(mut self) -> Builder {
        self.racks = true;
        self
    }

    /// Puts a network that can be made to fail in front of every broker, for those clients that begin at
    /// [`Kafka::bootstrap_through_proxies`]; others have a listener of their own.
    pub fn with_proxies(mut self) -> Builder {
        self.proxies = true;
        self
    }

    /// Gives the brokers a certificate that is an authority's: OpenSSL accepts it as a server's, rustls does not.
    pub fn with_authority_as_server(mut self) -> Builder {
        self.server = ServerCertificate::Authority;
        self
    }

    /// Gives the brokers a certificate for another address than theirs.
    pub fn certified_for(mut self, host: Ipv4Addr) -> Builder {
        self.certified_host = Some(host);
        self
    }

    /// The heap of each JVM, as `-Xmx` takes it; the default is `512m`.
    pub fn heap(mut self, heap: &str) -> Builder {
        self.heap = heap.to_owned();
        self
    }

    /// Settings for measuring: a heap of 2 GB and the optimising compiler, which tests save to start faster. And smaller indices: a
    /// new topic's are files of nothing but holes, and where the kernel reads ahead far it fills up to all of each when it is first
    /// touched. A run has topics of its own and so would measure that.
    pub fn for_benchmarks(mut self) -> Builder {
        self.full_compiler = true;
        self.heap("2g").property("log.index.size.max.bytes", "1048576")
    }

    /// Starts it, and waits until all brokers are ready.
    pub fn start(self) -> Kafka {
        let kafka = Kafka::prepare(self);
        kafka.format(0..kafka.len());
        kafka.start_all();
        kafka
    }
}

#[derive(Debug)]
struct Broker {
    dir: PathBuf,
    ports: Vec<(Security, Port)>,
    controller: Port,
    /// The port behind the proxy, and the proxy.
    proxy: Option<(Port, Proxy)>,
    process: Mutex<Option<Process>>,
}

impl Broker {
    fn port(&self, security: Security) -> &Port {
        let found = self.ports.iter().find(|(listener, _)| *listener == security);
        let (_, port) = found.unwrap_or_else(|| panic!("this Kafka has no {} listener", security.name()));
        port
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_running(&self) -> bool {
        self.process().as_ref().is_some_and(Process::is_running)
    }
}

/// Running brokers. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct Kafka {
    // Before `_dir`: processes end before their files go.
    brokers: Vec<Broker>,
    builder: Builder,
    certificates: Option<Certificates>,
    topics: OnceLock<Topics>,
    _dir: Dir,
}

impl Kafka {
    /// What to start.
    pub fn builder() -> Builder {
        Builder {
            brokers: 1,
            listeners: vec![Security::Plaintext],
            users: Vec::new(),
            properties: Vec::new(),
            heap: "512m".to_owned(),
            full_compiler: false,
            host: Ipv4Addr::LOCALHOST,
            racks: false,
            server: ServerCertificate::Leaf,
            proxies: false,
            certified_host: None,
        }
    }

    /// One broker with the defaults.
    pub fn start() -> Kafka {
        Kafka::builder().start()
    }

    /// The bootstrap servers of the plaintext listener.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_of(Security::Plaintext)
    }

    /// The bootstrap servers of another listener.
    pub fn bootstrap_of(&self, security: Security) -> String {
        let addresses = self.brokers.iter().map(|broker| broker.port(security).address().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The proxies, broker by broker; none without [`Builder::with_proxies`].
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.brokers.iter().filter_map(|broker| broker.proxy.as_ref()).map(|(_, proxy)| proxy)
    }

    /// The bootstrap servers of those who are to reach the brokers through the proxies alone.
    pub fn bootstrap_through_proxies(&self) -> String {
        let addresses: Vec<String> = self.proxies().map(|proxy| proxy.address().to_string()).collect();
        assert!(!addresses.is_empty(), "this Kafka was started without proxies");
        addresses.join(",")
    }

    /// The PEM file with the authority that clients of the TLS listeners trust.
    pub fn authority(&self) -> &Path {
        &self.certificates.as_ref().expect("only a Kafka with a TLS listener has an authority").authority
    }

    /// Topics, records and groups of it.
    pub fn topics(&self) -> &Topics {
        self.topics.get_or_init(|| Topics::new(&self.bootstrap()))
    }

    /// The number of brokers.
    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    /// Never: there is at least one broker.
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Starts all brokers that are down, and waits until they are ready.
    pub fn start_all(&self) {
        for broker in 0..self.brokers.len() {
            self.spawn(broker);
        }
        for broker in 0..self.brokers.len() {
            self.wait_ready(broker);
        }
    }

    /// Starts a broker that is down, with its data and ports, and waits until it is ready.
    pub fn start_broker(&self, broker: usize) {
        self.spawn(broker);
        self.wait_ready(broker);
    }

    /// SIGTERM, and waits for the end: the broker hands its partitions over and flushes its logs.
    pub fn stop_broker(&self, broker: usize) {
        if let Some(process) = self.brokers[broker].process().take() {
            process.signal(Signal::TERM);
            process.wait_exit(STOP_TIMEOUT);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill_broker(&self, broker: usize) {
        if let Some(process) = self.brokers[broker].process().take() {
            process.kill();
        }
    }

    /// SIGKILL for all brokers.
    pub fn kill_all(&self) {
        for broker in 0..self.brokers.len() {
            self.kill_broker(broker);
        }
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    pub fn pause_broker(&self, broker: usize) {
        self.signal(broker, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume_broker(&self, broker: usize) {
        self.signal(broker, Signal::CONT);
    }

    /// Stops a broker and starts it again; ready when this returns.
    pub fn restart_broker(&self, broker: usize) {
        self.stop_broker(broker);
        self.start_broker(broker);
    }

    /// Everything that a broker has logged.
    pub fn log(&self, broker: usize) -> String {
        fs::read_to_string(self.brokers[broker].dir.join("log")).unwrap_or_default()
    }

    /// Where a broker keeps a partition's segments, for tests of what lies on the disk.
    pub fn partition_dir(&self, broker: usize, topic: &str, partition: i32) -> PathBuf {
        self.brokers[broker].dir.join("data").join(format!("{topic}-{partition}"))
    }

    /// The pid of a running broker.
    pub fn pid(&self, broker: usize) -> Option<u32> {
        self.brokers[broker].process().as_ref().map(Process::pid)
    }

    fn signal(&self, broker: usize, signal: Signal) {
        let process = self.brokers[broker].process();
        process.as_ref().unwrap_or_else(|| panic!("broker {broker} is down")).signal(signal);
    }

    fn prepare(builder: Builder) -> Kafka {
        let dir = Dir::new("kafka");
        let certificates = builder.listeners.iter().any(|l| l.has_tls());
        let host = builder.certified_host.unwrap_or(builder.host);
        let certificates = certificates.then(|| Certificates::make_for(dir.path(), host, builder.server));
        let brokers = (0..builder.brokers)
            .map(|n| {
                let broker_dir = dir.path().join(format!("broker-{n}"));
                fs::create_dir(&broker_dir).unwrap_or_else(|e| panic!("{}: {e}", broker_dir.display()));
                let ports = builder.listeners.iter().map(|l| (*l, Port::reserve_on(builder.host))).collect();
                let proxy = builder.proxies.then(|| {
                    let port = Port::reserve();
                    let proxy = Proxy::of_kafka(port.address());
                    (port, proxy)
                });
                let controller = Port::reserve();
                Broker { dir: broker_dir, ports, controller, proxy, process: Mutex::new(None) }
            })
            .collect();
        let kafka = Kafka { brokers, builder, certificates, topics: OnceLock::new(), _dir: dir };
        for (n, broker) in kafka.brokers.iter().enumerate() {
            let path = broker.dir.join("server.properties");
            fs::write(&path, kafka.properties(n)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        kafka
    }

    /// A new disk for a broker that is down: it has nothing then, and gets all from the others once it is started.
    pub fn wipe_broker(&self, broker: usize) {
        assert!(!self.brokers[broker].is_running(), "broker {broker} is running");
        let data = self.brokers[broker].dir.join("data");
        fs::remove_dir_all(&data).unwrap_or_else(|e| panic!("removing {}: {e}", data.display()));
        self.format(broker..broker + 1);
    }

    /// Writes the metadata directories: all at once, since each takes a JVM.
    fn format(&self, brokers: Range<usize>) {
        let running: Vec<Process> = brokers
            .map(|n| {
                let mut command = self.java(n, false);
                command.args(["kafka.tools.StorageTool", "format", "-t", properties::CLUSTER_ID, "-c"]);
                command.arg(self.brokers[n].dir.join("server.properties"));
                for (user, password) in &self.builder.users {
                    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                        command.arg("--add-scram");
                        command.arg(format!("{mechanism}=[name={user},password={password}]"));
                    }
                }
                Process::spawn("the Kafka format tool", &command, &self.brokers[n].dir.join("format.log"))
            })
            .collect();
        for process in running {
            let status = process.wait_exit(FORMAT_TIMEOUT);
            assert!(status.success(), "{} ended with {status}\n{}", process.name(), process.log_tail());
        }
    }

    fn spawn(&self, broker: usize) {
        if self.brokers[broker].is_running() {
            return;
        }
        let mut command = self.java(broker, self.builder.full_compiler);
        command.arg("kafka.Kafka").arg(self.brokers[broker].dir.join("server.properties"));
        let log = self.brokers[broker].dir.join("log");
        let process = Process::spawn(&format!("Kafka broker {broker}"), &command, &log);
        *self.brokers[broker].process() = Some(process);
    }

    fn java(&self, broker: usize, full_compiler: bool) -> Command {
        let mut command = Command::new("java");
        command.arg(format!("-Xmx{}", self.builder.heap));
        if full_compiler {
            command.arg("-XX:+UseG1GC");
        } else {
            command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        }
        command.args(["-Xshare:auto", "-Djava.awt.headless=true"]);
        command.args(["-Dorg.slf4j.simpleLogger.showDateTime=true"]);
        command.args(["-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]);
        let dir = &self.brokers[broker].dir;
        // The compression libraries unpack themselves there, and stay where a broker is killed.
        command.arg(format!("-Djava.io.tmpdir={}", dir.display()));
        command.arg("-cp").arg(libs().join("*"));
        command.current_dir(dir);
        command
    }

    fn wait_ready(&self, broker: usize) {
        let address = self.brokers[broker].port(Security::Plaintext).address().to_string();
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &address)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "100")
            .create()
            .expect("these settings are valid");
        let ready = try_until(START_TIMEOUT, || {
            if !self.brokers[broker].is_running() {
                return Ok(Err("it ended".to_owned()));
            }
            let metadata = client.fetch_metadata(None, Duration::from_secs(2)).map_err(|e| e.to_string())?;
            self.all_there(&metadata).map(Ok)
        });
        if let Err(why) = ready.unwrap_or_else(Err) {
            let process = self.brokers[broker].process();
            let tail = process.as_ref().map(Process::log_tail).unwrap_or_default();
            panic!("Kafka broker {broker} is not ready: {why}\n{tail}");
        }
    }

    /// Whether the metadata shows what runs: a broker just started may still lack some of it.
    fn all_there(&self, metadata: &Metadata) -> Result<(), String> {
        let running = self.brokers.iter().filter(|broker| broker.is_running()).count();
        if metadata.brokers().len() < running {
            return Err(format!("{} of {running} brokers registered", metadata.brokers().len()));
        }
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let leaderless = partitions.filter(|partition| partition.leader() < 0).count();
        if running == self.brokers.len() && leaderless > 0 {
            return Err(format!("{leaderless} partitions without a leader"));
        }
        Ok(())
    }
}

/// Where the broker's jars are.
fn libs() -> PathBuf {
    jars(&format!("kafka-{VERSION}"), "make deps").unwrap_or_else(|e| panic!("{e}"))
}
