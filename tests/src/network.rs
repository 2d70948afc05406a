//! Networks between namespaces, with a bandwidth that is known.
//!
//! Responsible for a bridge with an address of this host, for namespaces whose only way out is a link to it, for the links'
//! bandwidth in both directions, and for what went over them. Must never touch an interface or a namespace that it did not
//! make, and leaves none behind.
//!
//! Linux alone has these, and root alone may make them.

use crate::tools;
use std::net::Ipv4Addr;

/// The host's address on the bridge, of the block that RFC 2544 keeps for benchmarks.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
const PREFIX_LENGTH: u8 = 24;
const BRIDGE: &str = "crashmon-br";
/// What a link may send at once. A segment that is cut up only by the card has up to 64 KiB, and one that is larger than this
/// would never be sent.
const BURST: &str = "256kb";
/// How long what is sent too fast waits before it is dropped.
const QUEUE: &str = "50ms";

/// A bridge of this host. Dropped, it is gone, and its namespaces with it.
#[derive(Debug)]
pub struct Network {
    namespaces: Vec<Namespace>,
}

/// A namespace whose only way out is a link to the bridge.
#[derive(Debug)]
pub struct Namespace {
    /// Of the link's end at the bridge, too.
    name: String,
}

/// Bytes that went over a link, with the headers of Ethernet and all above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Into the namespace.
    pub received: u64,
    /// Out of it.
    pub sent: u64,
}

impl Network {
    /// Makes the bridge and so many namespaces, at most 100.
    pub fn new(namespaces: u8) -> Result<Network, String> {
        if exists(BRIDGE) {
            return Err(format!(
                "{BRIDGE} is there: another network is in use, or `ip link delete {BRIDGE}`"
            ));
        }
        // Dropped if something fails from here on.
        let mut network = Network { namespaces: Vec::new() };
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("address add {HOST}/{PREFIX_LENGTH} dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        for number in 0..namespaces {
            let namespace = Namespace { name: format!("crashmon-{number}") };
            ip(&format!("netns add {}", namespace.name))?;
            network.namespaces.push(namespace);
            network.namespaces[usize::from(number)].connect(number)?;
        }
        Ok(network)
    }

    /// The host's address, which all namespaces reach.
    pub fn host(&self) -> Ipv4Addr {
        HOST
    }

    /// The namespaces.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }
}

impl Namespace {
    /// Its name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets its link carry so much in each direction, in Mbit/s.
    pub fn limit(&self, megabits: u32) -> Result<(), String> {
        let filter = format!("root tbf rate {megabits}mbit burst {BURST} latency {QUEUE}");
        tc(&format!("qdisc replace dev {} {filter}", self.name))?;
        ip(&format!("netns exec {} tc qdisc replace dev eth0 {filter}", self.name))
    }

    /// What went over its link so far.
    pub fn traffic(&self) -> Result<Traffic, String> {
        let count = |what: &str| {
            let file = format!("/sys/class/net/{}/statistics/{what}", self.name);
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
            text.trim().parse().map_err(|error| format!("{file}: {error}"))
        };
        // This end's: what it sends, the namespace receives.
        Ok(Traffic { received: count("tx_bytes")?, sent: count("rx_bytes")? })
    }

    fn connect(&self, number: u8) -> Result<(), String> {
        let name = &self.name;
        let [a, b, c, first] = HOST.octets();
        let address = Ipv4Addr::new(a, b, c, first + 1 + number);
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set {name} master {BRIDGE} up"))?;
        ip(&format!("-n {name} address add {address}/{PREFIX_LENGTH} dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links go with one of their ends. What fails has no other way to be told, for the program may be panicking.
        let namespaces = self.namespaces.iter().map(|namespace| format!("netns delete {}", namespace.name));
        for order in namespaces.chain([format!("link delete {BRIDGE}")]) {
            if let Err(error) = ip(&order) {
                eprintln!("{error}");
            }
        }
    }
}

fn exists(link: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(link).exists()
}

fn ip(order: &str) -> Result<(), String> {
    run("ip", order)
}

fn tc(order: &str) -> Result<(), String> {
    run("tc", order)
}

fn run(program: &str, order: &str) -> Result<(), String> {
    let args: Vec<&str> = order.split(' ').collect();
    let refused = |text: String| format!("{program} {order}: {}; only root may", text.trim());
    tools::run(program, &args).map(drop).map_err(refused)
}
