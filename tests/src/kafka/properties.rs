//! The brokers' settings.
//!
//! Responsible for the text of a server.properties: small, quick to start, and otherwise as a production broker is.
//! Must never weaken what the tests are about (acknowledgements, transactions, fencing).

use super::{Kafka, Security};

/// Any fixed one: each Kafka has directories and ports of its own.
pub(super) const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";

const COMMON: &[(&str, &str)] = &[
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "PLAINTEXT"),
    ("auto.create.topics.enable", "false"),
    // The first member of a group waits for nobody.
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    // The internal topics are created at first use: fewer partitions, quicker tests.
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    // How soon an orphaned transaction is seen to have timed out; 10 s by default.
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500"),
    // A dead broker is noticed after 4 s instead of 9.
    ("broker.session.timeout.ms", "4000"),
    ("broker.heartbeat.interval.ms", "1000"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    // Of the heap, 128 MB by default.
    ("log.cleaner.dedupe.buffer.size", "20971520"),
    ("log.cleaner.backoff.ms", "500"),
    ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
];

impl Kafka {
    pub(super) fn properties(&self, n: usize) -> String {
        let mut lines: Vec<(String, String)> =
            COMMON.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut set = |key: &str, value: String| lines.push((key.to_owned(), value));
        let broker = &self.brokers[n];

        let is_controller = n < self.controllers();
        set("process.roles", if is_controller { "broker,controller" } else { "broker" }.to_owned());
        set("node.id", n.to_string());
        if self.builder.racks {
            set("broker.rack", format!("rack-{n}"));
        }
        set("controller.quorum.voters", self.voters());
        set("log.dirs", broker.dir.join("data").display().to_string());

        let addresses = broker.ports.iter().map(|(l, port)| format!("{}://{}", l.name(), port.address()));
        let mut listeners = addresses.collect::<Vec<_>>();
        let mut advertised = listeners.clone();
        let mut protocols =
            broker.ports.iter().map(|(l, _)| format!(",{0}:{0}", l.name())).collect::<String>();
        if let Some((port, proxy)) = &broker.proxy {
            listeners.push(format!("PROXIED://{}", port.address()));
            advertised.push(format!("PROXIED://{}", proxy.address()));
            protocols.push_str(",PROXIED:PLAINTEXT");
        }
        if is_controller {
            listeners.push(format!("CONTROLLER://{}", broker.controller.address()));
        }
        set("listeners", listeners.join(","));
        set("advertised.listeners", advertised.join(","));
        set("listener.security.protocol.map", format!("CONTROLLER:PLAINTEXT{protocols}"));

        let replicas = self.brokers.len().to_string();
        set("default.replication.factor", replicas.clone());
        set("offsets.topic.replication.factor", replicas.clone());
        set("transaction.state.log.replication.factor", replicas.clone());
        set("transaction.state.log.min.isr", if self.brokers.len() > 2 { "2" } else { "1" }.to_owned());

        if let Some(certificates) = &self.certificates {
            set("ssl.keystore.type", "PEM".to_owned());
            set("ssl.keystore.location", certificates.key_store.display().to_string());
        }
        for (listener, _) in broker.ports.iter().filter(|(listener, _)| listener.has_sasl()) {
            lines.extend(self.login_modules(*listener));
        }
        // Of a key that comes twice, Java takes the last.
        lines.extend(self.builder.properties.iter().cloned());
        lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    fn controllers(&self) -> usize {
        let brokers = self.brokers.len();
        if brokers.is_multiple_of(2) { brokers - 1 } else { brokers }
    }

    fn voters(&self) -> String {
        let voters = self.brokers.iter().take(self.controllers()).enumerate();
        voters.map(|(n, broker)| format!("{n}@{}", broker.controller.address())).collect::<Vec<_>>().join(",")
    }

    fn login_modules(&self, listener: Security) -> Vec<(String, String)> {
        let prefix = format!("listener.name.{}", listener.name().to_lowercase());
        let plain_users =
            self.builder.users.iter().map(|(user, password)| format!(" user_{user}=\"{password}\""));
        let plain = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required{};",
            plain_users.collect::<String>()
        );
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned();
        vec![
            (format!("{prefix}.plain.sasl.jaas.config"), plain),
            (format!("{prefix}.scram-sha-256.sasl.jaas.config"), scram.clone()),
            (format!("{prefix}.scram-sha-512.sasl.jaas.config"), scram),
        ]
    }
}
