//! From what a person wrote to what can be built.
//!
//! Responsible for every check that the API server can't make, for defaults that depend on the operator, and for where
//! secrets are mounted. Pure. Must never let anything through that a later part would have to check again, and must
//! never be skipped: what is built comes from a [`Monitor`] alone.

use std::collections::BTreeMap;

use crashmonitor_core::config::{Config, raw};
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::{
    CertificateSource, CrashMonitor, DeletionPolicy, DesiredState, ImagePullPolicy, Kafka, PasswordSource,
    Redis, Template,
};
use crate::manifests::{ADMIN_PORT, MOUNT_ROOT, NAME_LENGTH_MAX};

/// What the operator itself was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// The workers' image where the resource names none.
    pub worker_image: Option<String>,
    /// The namespace that the operator runs in: from there the workers' endpoints are read.
    pub operator_namespace: String,
    /// Whether there is a console that shows users: workers are to name them.
    pub console: bool,
}

/// Why a resource can't be used: the field, the cause and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The worker would refuse it.
    #[error("spec.{0}")]
    Config(#[from] crashmonitor_core::config::Error),
    /// A field of its own.
    #[error("{path}: {reason}")]
    Field {
        /// The field, from the top.
        path: &'static str,
        /// The cause and what to do.
        reason: String,
    },
}

/// A part of a Secret that is mounted into the pods as files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretMount {
    /// The volume's name, and that of its directory.
    pub volume: String,
    /// The Secret.
    pub secret_name: String,
    /// Keys in the Secret, and the file's name for each.
    pub items: Vec<(String, &'static str)>,
}

impl SecretMount {
    /// The directory in the container.
    pub fn directory(&self) -> String {
        format!("{MOUNT_ROOT}/{}", self.volume)
    }
}

/// A resource in which everything has been checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Monitor {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
    /// What a person asked for.
    pub replicas: i32,
    /// Whether the workers are to run.
    pub desired_state: DesiredState,
    /// See the resource.
    pub restart_nonce: i64,
    /// The worker's configuration.
    pub config: raw::Config,
    /// The names that derive from it.
    pub checked: Config,
    /// Secrets that the configuration names files of.
    pub secrets: Vec<SecretMount>,
    /// See the resource.
    pub deletion_policy: DeletionPolicy,
    /// See the resource.
    pub max_unavailable: IntOrString,
    /// The workers' image.
    pub image: String,
    /// See the resource.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// See the resource.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// See the resource.
    pub resources: ResourceRequirements,
    /// See the resource.
    pub template: Template,
    /// From where the operator reads the workers' endpoints.
    pub operator_namespace: String,
}

impl Monitor {
    /// Workers that are to exist: none while suspended.
    pub fn wanted_replicas(&self) -> i32 {
        match self.desired_state {
            DesiredState::Running => self.replicas,
            DesiredState::Suspended => 0,
        }
    }
}

/// Checks a resource as it came from the API server. The first mistake is returned.
pub fn validate(resource: &CrashMonitor, defaults: &Defaults) -> Result<Monitor, Error> {
    let metadata = &resource.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    if name.len() > NAME_LENGTH_MAX || name.contains('.') {
        let reason = format!("must be at most {NAME_LENGTH_MAX} of a-z, 0-9 and -, got {name:?}");
        return Err(Error::Field { path: "metadata.name", reason });
    }
    let spec = &resource.spec;
    let Some(image) = spec.image.clone().or_else(|| defaults.worker_image.clone()) else {
        let reason =
            "is missing, and the operator has no default: set it, or start the operator with --worker-image";
        return Err(Error::Field { path: "spec.image", reason: reason.to_string() });
    };
    let mut secrets = Vec::new();
    let mut config = config(resource, &mut secrets)?;
    config.worker.users_in_status = defaults.console;
    let checked = Config::from_raw(&config)?;
    Ok(Monitor {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name,
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        replicas: spec.replicas,
        desired_state: spec.desired_state,
        restart_nonce: spec.restart_nonce,
        config,
        checked,
        secrets,
        deletion_policy: spec.deletion_policy,
        max_unavailable: spec.pod_disruption_budget.max_unavailable.clone(),
        image,
        image_pull_policy: spec.image_pull_policy,
        image_pull_secrets: spec.image_pull_secrets.clone(),
        resources: spec.resources.clone(),
        template: spec.template.clone().unwrap_or_default(),
        operator_namespace: defaults.operator_namespace.clone(),
    })
}

/// The file that the workers read. Every value is written out, so that another default in a later version of the
/// worker changes nothing for a monitor that runs.
fn config(resource: &CrashMonitor, secrets: &mut Vec<SecretMount>) -> Result<raw::Config, Error> {
    let spec = &resource.spec;
    let metadata = &resource.metadata;
    let (window, output) = (&spec.window, &spec.output);
    let text = |value: &String| raw::DurationText(value.clone());
    Ok(raw::Config {
        monitor: raw::Monitor {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        },
        kafka: kafka(&spec.kafka, secrets)?,
        input: raw::Input {
            topic: spec.input.topic.clone(),
            consumer_group: spec.input.consumer_group.clone(),
            starting_offsets: spec.input.starting_offsets,
            on_data_loss: spec.input.on_data_loss,
        },
        rule: raw::Match {
            contains: spec.rule.contains.clone(),
            case_sensitive: spec.rule.case_sensitive,
            severities: spec.rule.severities.clone(),
        },
        window: raw::Window {
            size: text(&window.size),
            allowed_lateness: text(&window.allowed_lateness),
            max_out_of_orderness: text(&window.max_out_of_orderness),
            idle_timeout: text(&window.idle_timeout),
            max_future_skew: text(&window.max_future_skew),
            max_drift: text(&window.max_drift),
        },
        count_greater_than: spec.count_greater_than,
        output: raw::Output {
            topic: output.topic.clone(),
            mode: output.mode,
            late_topic: output.late_topic.clone(),
            dead_letter_topic: output.dead_letter_topic.clone(),
            partitions: i64::from(output.partitions),
            replication_factor: output.replication_factor.map(i64::from),
        },
        repartition: raw::Repartition {
            partitions: i64::from(spec.repartition.partitions),
            replication_factor: i64::from(spec.repartition.replication_factor),
        },
        checkpoint: spec.checkpoint.as_ref().map(|checkpoint| raw::Checkpoint {
            interval: text(&checkpoint.interval),
            redis: redis(&checkpoint.redis, secrets),
        }),
        worker: raw::Worker { admin_listen: format!("0.0.0.0:{ADMIN_PORT}"), ..raw::Worker::default() },
    })
}

fn kafka(spec: &Kafka, secrets: &mut Vec<SecretMount>) -> Result<raw::Kafka, Error> {
    let mut tls = spec.tls.as_ref().map(|tls| raw::KafkaTls {
        ca_files: authorities("kafka-ca", &tls.trusted_certificates, secrets),
        ..raw::KafkaTls::default()
    });
    let mut authentication = None;
    if let Some(given) = &spec.authentication {
        match given.method.mechanism() {
            Some(mechanism) => {
                let (Some(username), Some(source)) = (&given.username, &given.password_secret) else {
                    return Err(field("spec.kafka.authentication", "needs username and passwordSecret"));
                };
                authentication = Some(raw::Authentication {
                    mechanism,
                    username: username.clone(),
                    password_file: Some(password("kafka-password", source, secrets)),
                    password_env: None,
                });
            }
            None => {
                let (Some(tls), Some(source)) = (&mut tls, &given.certificate_and_key) else {
                    let reason = "of type tls needs certificateAndKey, and kafka.tls beside it";
                    return Err(field("spec.kafka.authentication", reason));
                };
                let mount = SecretMount {
                    volume: "kafka-client".to_string(),
                    secret_name: source.secret_name.clone(),
                    items: vec![(source.certificate.clone(), "tls.crt"), (source.key.clone(), "tls.key")],
                };
                tls.certificate_file = Some(format!("{}/tls.crt", mount.directory()));
                tls.key_file = Some(format!("{}/tls.key", mount.directory()));
                secrets.push(mount);
            }
        }
    }
    let setting = |value: &IntOrString| match value {
        IntOrString::Int(number) => raw::Scalar::Integer(i64::from(*number)),
        IntOrString::String(text) => raw::Scalar::Text(text.clone()),
    };
    let config: BTreeMap<_, _> =
        spec.config.iter().map(|(key, value)| (key.clone(), setting(value))).collect();
    Ok(raw::Kafka { bootstrap_servers: spec.bootstrap_servers.clone(), tls, authentication, config })
}

fn redis(spec: &Redis, secrets: &mut Vec<SecretMount>) -> raw::Redis {
    raw::Redis {
        url: spec.url.clone(),
        password_file: spec
            .password_secret
            .as_ref()
            .map(|source| password("redis-password", source, secrets)),
        password_env: None,
        tls: spec.tls.as_ref().map(|tls| raw::RedisTls {
            ca_files: authorities("redis-ca", &tls.trusted_certificates, secrets),
        }),
    }
}

/// Mounts a password and returns its file.
fn password(volume: &str, source: &PasswordSource, secrets: &mut Vec<SecretMount>) -> String {
    let mount = SecretMount {
        volume: volume.to_string(),
        secret_name: source.secret_name.clone(),
        items: vec![(source.password.clone(), "password")],
    };
    let file = format!("{}/password", mount.directory());
    secrets.push(mount);
    file
}

/// Mounts certificates and returns their files.
fn authorities(volume: &str, sources: &[CertificateSource], secrets: &mut Vec<SecretMount>) -> Vec<String> {
    let mut files = Vec::with_capacity(sources.len());
    for (number, source) in sources.iter().enumerate() {
        let mount = SecretMount {
            volume: format!("{volume}-{number}"),
            secret_name: source.secret_name.clone(),
            items: vec![(source.certificate.clone(), "ca.crt")],
        };
        files.push(format!("{}/ca.crt", mount.directory()));
        secrets.push(mount);
    }
    files
}

fn field(path: &'static str, reason: &str) -> Error {
    Error::Field { path, reason: reason.to_string() }
}
