//! A network between a client and a service that fails on request.
//!
//! Responsible for passing bytes on in order, for cutting, delaying and throttling them, for leading clients to another
//! service at the same address, and for what only somebody who can read Kafka's requests can do: holding the end of a
//! transaction, or cutting the connection on which its answer would come. Must never change a byte.
//!
//! A delay is what this module is for, so it sleeps; nobody waits here for a condition that way.

use crate::ports::Port;
use crate::wait::until;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Kafka's number of the request that ends a transaction.
const END_TXN: [u8; 2] = [0, 26];
/// The largest request of a client that a test may send.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// How long somebody else may have the address that a proxy is to listen at.
const FREE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a test may take until it says that a late request may go.
const LATE_MAX: Duration = Duration::from_secs(120);

/// What becomes of the next request that ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndTxn {
    /// It is passed on after so long, with all behind it on the same connection.
    Held(Duration),
    /// It is passed on, and the connection is cut before its answer comes.
    Unanswered,
    /// The connection is cut, and it is passed on all the same, but only after [`Proxy::pass_late_end`].
    Late,
}

/// What a client's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Kafka,
    Any,
}

/// A proxy in front of one address. It ends with the program; dropping it cuts its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// None where the address was given.
    _port: Option<Port>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    target: Mutex<SocketAddr>,
    protocol: Protocol,
    is_cut: AtomicBool,
    delay_ms: AtomicU64,
    /// Bytes a second in each direction of a connection; 0: as many as come.
    rate: AtomicU64,
    end_txn: Mutex<Option<EndTxn>>,
    /// Requests to end a transaction of which somebody has said what becomes of them.
    ends_met: AtomicU64,
    /// Those that were passed on.
    ends_passed: AtomicU64,
    /// Whether one that is late may go.
    may_late_end_go: (Mutex<bool>, Condvar),
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy in front of a Kafka broker's listener at `target`.
    pub fn of_kafka(target: SocketAddr) -> Proxy {
        Proxy::start(target, Protocol::Kafka)
    }

    /// A proxy in front of anything else.
    pub fn of(target: SocketAddr) -> Proxy {
        Proxy::start(target, Protocol::Any)
    }

    /// A proxy at an address that somebody else has chosen, such as the one where clients look by default. Waits for up to
    /// five minutes until nobody else has it.
    #[track_caller]
    pub fn listening_at(address: &str, target: &str) -> Proxy {
        let parse = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let (address, target) = (parse(address), parse(target));
        let listener = until(&format!("{address} to be free"), FREE_TIMEOUT, || TcpListener::bind(address));
        Proxy::run(listener, address, None, target, Protocol::Any)
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections, and each new one at once, until [`Proxy::mend`].
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        self.cut_once();
    }

    /// Cuts all connections; new ones are let through.
    pub fn cut_once(&self) {
        for stream in lock(&self.state.streams).drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Leads new connections to another service, and cuts those that there are.
    pub fn lead_to(&self, target: SocketAddr) {
        *lock(&self.state.target) = target;
        self.cut_once();
    }

    /// What comes is passed on so much later, in each direction.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = u64::try_from(delay.as_millis()).expect("a delay for tests");
        self.state.delay_ms.store(delay_ms, Ordering::SeqCst);
    }

    /// No connection passes on more than so many bytes a second, in each direction.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.state.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Says what becomes of the next request that ends a transaction.
    pub fn next_end(&self, end: EndTxn) {
        *lock(&self.state.end_txn) = Some(end);
    }

    /// Passes on the request that is [`EndTxn::Late`].
    pub fn pass_late_end(&self) {
        let (may_go, changed) = &self.state.may_late_end_go;
        *lock(may_go) = true;
        changed.notify_all();
    }

    /// How many of these requests have come, up to now, and are held or passed on.
    pub fn ends_met(&self) -> u64 {
        self.state.ends_met.load(Ordering::SeqCst)
    }

    /// How many of them were passed on.
    pub fn ends_passed(&self) -> u64 {
        self.state.ends_passed.load(Ordering::SeqCst)
    }

    /// All is well again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
        self.state.delay_ms.store(0, Ordering::SeqCst);
        self.state.rate.store(0, Ordering::SeqCst);
        *lock(&self.state.end_txn) = None;
    }

    fn start(target: SocketAddr, protocol: Protocol) -> Proxy {
        let port = Port::reserve();
        let address = port.address();
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        Proxy::run(listener, address, Some(port), target, protocol)
    }

    fn run(
        listener: TcpListener,
        address: SocketAddr,
        port: Option<Port>,
        target: SocketAddr,
        protocol: Protocol,
    ) -> Proxy {
        let state = Arc::new(State {
            target: Mutex::new(target),
            protocol,
            is_cut: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            end_txn: Mutex::new(None),
            ends_met: AtomicU64::new(0),
            ends_passed: AtomicU64::new(0),
            may_late_end_go: (Mutex::new(false), Condvar::new()),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &accepting));
        Proxy { address, _port: port, state }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming().filter_map(Result::ok) {
        if state.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        // A service that is down looks like one here too: the client's connection closes.
        let target = *lock(&state.target);
        let Ok(server) = TcpStream::connect(target) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { continue };
        if let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) {
            lock(&state.streams).extend([client, server]);
        }
        let (requests, answers) = (Arc::clone(state), Arc::clone(state));
        thread::spawn(move || {
            let _ = match requests.protocol {
                Protocol::Kafka => requests.pass_requests(&client, &server),
                Protocol::Any => requests.pass_bytes(&client, &server),
            };
            end(&client, &server);
        });
        thread::spawn(move || {
            let _ = answers.pass_bytes(&server_again, &client_again);
            end(&server_again, &client_again);
        });
    }
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = (one.shutdown(Shutdown::Both), other.shutdown(Shutdown::Both));
}

impl State {
    fn pass_bytes(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.linger(read);
            to.write_all(&buffer[..read])?;
        }
    }

    /// Request by request: each begins with its length, and then its kind.
    fn pass_requests(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if bytes > REQUEST_BYTES_MAX {
                return Err(io::Error::other("this is no request of Kafka's protocol"));
            }
            let mut request = vec![0; bytes];
            from.read_exact(&mut request)?;
            let end = if request.starts_with(&END_TXN) { lock(&self.end_txn).take() } else { None };
            if end.is_some() {
                self.ends_met.fetch_add(1, Ordering::SeqCst);
            }
            match end {
                Some(EndTxn::Held(time)) => thread::sleep(time),
                Some(EndTxn::Late) => {
                    from.shutdown(Shutdown::Both)?;
                    let (may_go, changed) = &self.may_late_end_go;
                    let wait = changed.wait_timeout_while(lock(may_go), LATE_MAX, |may_go| !*may_go);
                    drop(wait.unwrap_or_else(PoisonError::into_inner));
                }
                Some(EndTxn::Unanswered) | None => {}
            }
            self.linger(bytes);
            to.write_all(&[&length[..], &request].concat())?;
            if end.is_some() {
                self.ends_passed.fetch_add(1, Ordering::SeqCst);
            }
            if end == Some(EndTxn::Unanswered) {
                return from.shutdown(Shutdown::Both);
            }
        }
    }

    fn linger(&self, bytes: usize) {
        let mut pause = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
        let rate = self.rate.load(Ordering::SeqCst);
        if rate > 0 {
            pause += Duration::from_secs_f64(bytes as f64 / rate as f64);
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
