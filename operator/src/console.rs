//! The console: a page for people who want to see monitors at work, served where it is asked for.
//!
//! Responsible for its files, for the streams of server-sent events that fill it, and for who gets them how long. It needs
//! no lead: every operator serves it from watches of its own, so that a Service may choose any. Must never change
//! anything, read what the operator may not, or trust a word that came from a record: the page shows text, never markup.
//!
//! # Limits
//! - Whoever reaches the port sees all monitors that the operator sees, and users with crashes. It asks for no password:
//!   who may reach it is a matter of the network, or of a proxy before it.
//! - [`STREAMS_MAX`] streams at once, [`STREAM_TIME_MAX`] each: then the page asks for the next. Who takes nothing for
//!   [`PATIENCE`] is cut off. All streams of a monitor share one look at it, once a second, and there is none without
//!   a stream.
//! - A request under a foreign name is refused ([`is_known_host`]): otherwise any page that a person has open could read
//!   this one, by having its own name lead here.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use crashmonitor_host::serve::{self, Allowance};
use futures::stream;
use kube::Client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};

use crate::validate::Defaults;

mod feed;
mod stores;
pub mod view;

use feed::{Feeds, Key, Text};
use stores::Stores;

/// Pages that are open at once. Half of the connections, so that the files of the next page can be had too.
const STREAMS_MAX: usize = serve::CONNECTIONS_MAX / 2;
/// After this long the page asks for another stream: a connection that nobody looks at any more ends by itself.
const STREAM_TIME_MAX: Duration = Duration::from_secs(600);
/// How long who reads a stream may take nothing.
const PATIENCE: Duration = Duration::from_secs(15);
/// Something is sent at least this often, so that a page can tell silence from the end.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Scripts, styles, pictures and streams come from here and nowhere else; nothing is run or styled that stands in the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Every answer has these.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// What the console is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is served.
    pub listen: SocketAddr,
    /// Names under which it may be asked, beside addresses and names within a cluster.
    pub hosts: Vec<String>,
    /// Namespaces to watch; none: all.
    pub namespaces: Vec<String>,
}

/// What all requests share.
#[derive(Clone)]
struct Console(Arc<Shared>);

struct Shared {
    feeds: Arc<Feeds>,
    streams: Arc<Semaphore>,
    hosts: Vec<String>,
}

/// Serves the console until the process ends. Returns once the address is bound.
pub async fn start(client: Client, settings: Settings, defaults: Defaults) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(settings.listen).await?;
    let address = listener.local_addr()?;
    let stores = Stores::watch(&client, &settings.namespaces);
    let feeds = Feeds::new(client, stores, defaults);
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let shared = Shared { feeds: Arc::new(feeds), streams, hosts: settings.hosts };
    tokio::spawn(serve::serve(listener, router(Console(Arc::new(shared)))));
    Ok(address)
}

/// GET (and with it HEAD) only: axum answers anything else with 405.
fn router(console: Console) -> Router {
    Router::new()
        .route("/", get(async || file("text/html", include_str!("../console/index.html"))))
        .route("/console.css", get(async || file("text/css", include_str!("../console/console.css"))))
        .route("/console.js", get(async || file("text/javascript", include_str!("../console/console.js"))))
        .route("/icon.svg", get(async || file("image/svg+xml", include_str!("../console/icon.svg"))))
        .route("/stream", get(all_monitors))
        .route("/stream/{namespace}/{name}", get(one_monitor))
        .layer(middleware::from_fn_with_state(console.clone(), guard))
        .with_state(console)
}

fn file(media_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, format!("{media_type}; charset=utf-8"))], content).into_response()
}

/// Lets through who asks under a known name, and has every answer say what a browser may do with it.
async fn guard(State(console): State<Console>, request: Request, next: Next) -> Response {
    let mut response = if is_known_host(request.headers(), &console.0.hosts) {
        next.run(request).await
    } else {
        let text =
            "the console does not answer under this name; console.hosts in the chart takes further ones\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// Whether a request came under a name that can't be a stranger's: an address, a name without a dot, one that the
/// cluster gives, or one of `hosts`.
fn is_known_host(headers: &HeaderMap, hosts: &[String]) -> bool {
    let Some(given) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let without_port =
        given.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let host = without_port.map_or(given, |(host, _)| host).to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    address.parse::<IpAddr>().is_ok()
        || (!host.is_empty() && !host.contains('.'))
        || [".svc", ".cluster.local", ".localhost"].iter().any(|suffix| host.ends_with(suffix))
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(&host))
}

async fn all_monitors(
    State(console): State<Console>,
    Extension(allowance): Extension<Allowance>,
) -> Response {
    stream(&console, allowance, None)
}

async fn one_monitor(
    State(console): State<Console>,
    Extension(allowance): Extension<Allowance>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    stream(&console, allowance, Some(Key::Monitor { namespace, name }))
}

/// A stream of looks at all monitors, and at one of them.
fn stream(console: &Console, allowance: Allowance, monitor: Option<Key>) -> Response {
    let Ok(permit) = Arc::clone(&console.0.streams).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open; try again later\n")
            .into_response();
    };
    let feeds = &console.0.feeds;
    let streaming = Streaming {
        allowance,
        ends: Instant::now() + STREAM_TIME_MAX,
        overview: feeds.subscribe(Key::Overview),
        monitor: monitor.map(|key| feeds.subscribe(key)),
        _permit: permit,
    };
    Sse::new(stream::unfold(streaming, next)).into_response()
}

struct Streaming {
    allowance: Allowance,
    ends: Instant,
    overview: watch::Receiver<Text>,
    monitor: Option<watch::Receiver<Text>>,
    _permit: OwnedSemaphorePermit,
}

/// The next event. It is asked for when there is room to send it, so who takes nothing is given no more time, and nothing
/// queues up: what is sent then is the newest.
async fn next(mut streaming: Streaming) -> Option<(Result<Event, Infallible>, Streaming)> {
    let now = Instant::now();
    if now >= streaming.ends {
        return None;
    }
    streaming.allowance.until(now + PATIENCE);
    let monitor: Pin<Box<dyn Future<Output = Arc<str>> + Send>> = match &mut streaming.monitor {
        Some(receiver) => Box::pin(news(receiver)),
        None => Box::pin(std::future::pending()),
    };
    let event = tokio::select! {
        text = news(&mut streaming.overview) => Event::default().event("monitors").data(text),
        text = monitor => Event::default().event("monitor").data(text),
        () = sleep(HEARTBEAT) => Event::default().event("alive").data("{}"),
    };
    Some((Ok(event), streaming))
}

async fn news(receiver: &mut watch::Receiver<Text>) -> Arc<str> {
    loop {
        if receiver.changed().await.is_err() {
            // A feed outlives its receivers, so it has failed; the page sees that nothing comes.
            return std::future::pending().await;
        }
        if let Some(text) = receiver.borrow_and_update().clone() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;

    use super::*;

    /// A look of this size, ten times a second, fills in a moment what the system keeps for who does not read.
    const LOOK_BYTES: usize = 1 << 20;
    const LOOKS_PERIOD: Duration = Duration::from_millis(100);
    /// Far beyond the bound, for a slow machine: without a bound it would be waited for in vain.
    const TOO_LONG: Duration = PATIENCE.saturating_mul(4);

    /// Streams of large looks, served as those of monitors are, and how many may be open besides.
    fn streams(count: usize) -> (SocketAddr, Arc<Semaphore>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let free = Arc::new(Semaphore::new(count));
        let permits = Arc::clone(&free);
        let (looks, _) = watch::channel(Text::None);
        let watched = looks.clone();
        let open = move |Extension(allowance): Extension<Allowance>| {
            let streaming = Streaming {
                allowance,
                ends: Instant::now() + STREAM_TIME_MAX,
                overview: watched.subscribe(),
                monitor: None,
                _permit: Arc::clone(&permits).try_acquire_owned().unwrap(),
            };
            std::future::ready(Sse::new(stream::unfold(streaming, next)))
        };
        let router = Router::new().route("/stream", get(open));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let looking = async {
                    loop {
                        looks.send_replace(Some("x".repeat(LOOK_BYTES).into()));
                        sleep(LOOKS_PERIOD).await;
                    }
                };
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::join!(serve::serve(listener, router), looking);
            });
        });
        (address, free)
    }

    fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TOO_LONG)).unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    }

    /// The server has only one side to look at: the place that a stream has taken, and gives back.
    fn await_free(free: &Semaphore, wanted: usize) -> Duration {
        let begun = std::time::Instant::now();
        while free.available_permits() != wanted {
            assert!(begun.elapsed() < TOO_LONG, "{} are free, not {wanted}", free.available_permits());
            thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    #[test]
    fn who_takes_nothing_of_a_stream_is_cut_off_and_who_reads_is_not() {
        let (address, free) = streams(2);
        let mut reader = ask(address);
        let taken = thread::spawn(move || {
            let (mut buffer, mut taken) = (vec![0; LOOK_BYTES], 0);
            let begun = std::time::Instant::now();
            // Longer than who takes nothing has.
            while begun.elapsed() < PATIENCE * 3 / 2 {
                match reader.read(&mut buffer).unwrap() {
                    0 => break,
                    read => taken += read,
                }
            }
            (taken, begun.elapsed(), reader)
        });
        await_free(&free, 1);
        let silent = ask(address);
        await_free(&free, 0);
        let waited = await_free(&free, 1);
        assert!(waited >= PATIENCE - Duration::from_secs(1), "cut off after {waited:?}");
        let (taken, read_for, reader) = taken.join().unwrap();
        assert!(read_for >= PATIENCE * 3 / 2, "who reads was cut off after {read_for:?} and {taken} bytes");
        drop((silent, reader));
    }

    fn is_known(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        is_known_host(&headers, &["console.example.com".to_owned()])
    }

    #[test]
    fn the_name_of_a_stranger_is_refused() {
        for host in [
            "localhost:8081",
            "127.0.0.1:8081",
            "[::1]:8081",
            "[::1]",
            "10.0.0.1",
            "crashmonitor-console",
            "crashmonitor-console.crashmonitor-system.svc:8081",
            "crashmonitor-console.crashmonitor-system.svc.cluster.local",
            "Console.Example.com",
            "console.example.com:443",
        ] {
            assert!(is_known(host), "{host}");
        }
        for host in
            ["", ":8081", "evil.example", "evil.example:8081", "svc.evil.example", "127.0.0.1.evil.example"]
        {
            assert!(!is_known(host), "{host}");
        }
        assert!(!is_known_host(&HeaderMap::new(), &[]));
    }
}
