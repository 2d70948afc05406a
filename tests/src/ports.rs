//! Ports that stay ours while a service is down.
//!
//! Responsible for finding free ports on an address of this host and for holding each until the [`Port`] is dropped. Must never
//! hand out a port that another process can take before its service binds it.
//!
//! The holder is a socket that is bound but does not listen. Linux lets a second socket bind and listen on such a
//! port when both set SO_REUSEADDR (Kafka, Redis and tokio do), while nobody gets it by binding port 0 or as the
//! source of a connection. So a broker that restarts finds its port free, however long it was down.

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, sockopt};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// A port on one address of this host, held until dropped.
#[derive(Debug)]
pub struct Port {
    host: Ipv4Addr,
    number: u16,
    _holder: OwnedFd,
}

impl Port {
    /// Finds a free port on loopback and holds it.
    pub fn reserve() -> Port {
        Port::reserve_on(Ipv4Addr::LOCALHOST)
    }

    /// Finds a free port on `host`, one of this host's addresses, and holds it.
    pub fn reserve_on(host: Ipv4Addr) -> Port {
        let (number, holder) =
            try_reserve(host).unwrap_or_else(|e| panic!("finding a free port on {host}: {e}"));
        Port { host, number, _holder: holder }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The address with it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.number))
    }
}

fn try_reserve(host: Ipv4Addr) -> rustix::io::Result<(u16, OwnedFd)> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let holder = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&holder, true)?;
    bind(&holder, &SocketAddrV4::new(host, 0))?;
    let bound = SocketAddrV4::try_from(getsockname(&holder)?)?;
    Ok((bound.port(), holder))
}
