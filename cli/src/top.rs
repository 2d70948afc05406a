//! `top`: a monitor at work, live.
//!
//! Responsible for looking every second, for the picture ([`screen`]) and for a terminal that is left as it was. Must never
//! hold up the picture for an answer: what has not come yet is shown as it was, with its age.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use crashmonitor_bench::oracle::parse_alert;
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_worker::kafka::log::Polled;
use jiff::Timestamp;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rdkafka::Message;

use crate::Error;
use crate::cluster::{Answers, Cluster};
use crate::kafka::{Access, Kafka, Source};
use screen::State;

pub mod screen;

/// How often the cluster is asked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the picture is drawn, and a key is heard.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Results that are read at the beginning: those of so long a time.
const RECENT_MS: i64 = 5 * 60_000;

/// What is to be shown.
#[derive(Args, Debug)]
pub struct Wanted {
    /// The CrashMonitor.
    pub name: String,
    /// Where Kafka is; without it everything but the users is shown.
    #[command(flatten)]
    pub kafka: Access,
}

/// Something new to show.
pub(crate) enum News {
    /// What the cluster says.
    Seen(Box<CrashMonitor>, Answers, Timestamp),
    /// Why it says nothing.
    Blind(String),
    /// A result.
    Result(crashmonitor_bench::oracle::Alert),
    /// Why there are no results to be read.
    NoResults(String),
}

/// Shows it until `q`.
pub async fn run(wanted: Wanted, cluster: Cluster) -> Result<(), Error> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::input(
            "this is no terminal",
            "`kubectl crashmonitor status` prints the same once",
        ));
    }
    // What is wrong from the beginning is said on an ordinary screen.
    let monitor = cluster.monitor(&wanted.name).await?;
    let (sender, news) = channel();
    let ending = Arc::new(AtomicBool::new(false));
    let reader = {
        let (monitor, access, sender, ending) =
            (monitor.clone(), wanted.kafka.clone(), sender.clone(), Arc::clone(&ending));
        std::thread::spawn(move || read(&monitor, &access, &sender, &ending))
    };
    let looker = tokio::spawn(look(cluster, wanted.name.clone(), sender));
    let screen = tokio::task::spawn_blocking(move || show(State::new(monitor), &news));
    let outcome = screen.await.map_err(|e| Error::failed(format!("the screen: {e}"), "try `status` instead"));
    looker.abort();
    ending.store(true, Ordering::Relaxed);
    // It looks up every tenth of a second; what it waits for at the moment is bounded, and nobody waits for it.
    drop(reader);
    outcome?.map_err(|e| Error::output(&e))
}

/// Asks the cluster, again and again.
async fn look(cluster: Cluster, name: String, news: Sender<News>) {
    loop {
        let seen = async {
            let monitor = cluster.monitor(&name).await?;
            let pods = cluster.pods(&name).await?;
            Ok::<_, Error>((monitor, cluster.answers(&pods).await))
        };
        let told = match seen.await {
            Ok((monitor, answers)) => News::Seen(Box::new(monitor), answers, Timestamp::now()),
            Err(error) => News::Blind(error.to_string()),
        };
        if news.send(told).is_err() {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Follows the results.
fn read(monitor: &CrashMonitor, access: &Access, news: &Sender<News>, ending: &AtomicBool) {
    let read = || -> Result<(), Error> {
        let kafka = Kafka::new(&Source::Resource(Box::new(monitor.clone())), access)?;
        let topic = kafka.config.output.topic.as_str();
        let ends = kafka.ends(topic)?;
        let since_ms = Timestamp::now().as_millisecond() - RECENT_MS;
        kafka.begin(topic, &kafka.since(topic, &ends, Some(since_ms))?)?;
        while !ending.load(Ordering::Relaxed) {
            let Polled::Record(message) = kafka.poll()? else { continue };
            // What is no result is `results`' to complain of.
            if let Ok(alert) = parse_alert(message.payload().unwrap_or_default())
                && news.send(News::Result(alert)).is_err()
            {
                break;
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        let _ = news.send(News::NoResults(error.to_string()));
    }
}

fn show(mut state: State, news: &Receiver<News>) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let shown = draw(&mut terminal, &mut state, news);
    let restored = ratatui::try_restore();
    shown.and(restored)
}

fn draw(terminal: &mut DefaultTerminal, state: &mut State, news: &Receiver<News>) -> std::io::Result<()> {
    loop {
        for told in news.try_iter() {
            state.take(told, Instant::now());
        }
        let now = Timestamp::now();
        terminal.draw(|frame| screen::render(state, now, frame))?;
        if event::poll(DRAW_INTERVAL)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let is_interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}
