//! The picture of `top`.
//!
//! Responsible for what is shown, and for the figures that only a memory of the last looks gives: rates, and who crashes
//! most. Must never ask anybody or read the clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crashmonitor_bench::oracle::Alert;
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_operator::status::find;
use jiff::Timestamp;
use kube::ResourceExt;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::News;
use crate::cluster::Answers;
use crate::results::plain;
use crate::text::{count, grouped, since, time};

/// Looks that are remembered: two minutes.
const LOOKS_MAX: usize = 120;
/// A rate is that of so long a time.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// Windows whose users are shown.
const WINDOWS_MAX: usize = 6;

/// What was seen, and what is remembered.
pub struct State {
    monitor: CrashMonitor,
    answers: Answers,
    seen_at: Option<Timestamp>,
    blind: Option<String>,
    no_results: Option<String>,
    /// When, and how many records all workers had read.
    reads: VecDeque<(Instant, u64)>,
    /// Records a second between looks, oldest first.
    rates: VecDeque<u64>,
    /// Counts by user, of the newest windows by their start.
    windows: BTreeMap<i64, BTreeMap<String, u64>>,
}

impl State {
    /// Nothing is seen yet but the resource.
    pub fn new(monitor: CrashMonitor) -> State {
        State {
            monitor,
            answers: Answers::new(),
            seen_at: None,
            blind: None,
            no_results: None,
            reads: VecDeque::new(),
            rates: VecDeque::new(),
            windows: BTreeMap::new(),
        }
    }

    pub(crate) fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Seen(monitor, answers, at) => {
                (self.monitor, self.answers, self.seen_at) = (*monitor, answers, Some(at));
                self.blind = None;
                self.remember(now);
            }
            News::Blind(why) => self.blind = Some(why),
            News::NoResults(why) => self.no_results = Some(why),
            News::Result(alert) => self.result(alert),
        }
    }

    fn remember(&mut self, now: Instant) {
        let read = self.answers.values().flatten().map(|answer| answer.totals.records).sum::<u64>();
        if let Some((before, had)) = self.reads.back() {
            let ms = u64::try_from(now.duration_since(*before).as_millis()).unwrap_or(u64::MAX).max(1);
            // Less than before: a worker was restarted.
            self.rates.push_back(read.saturating_sub(*had).saturating_mul(1000) / ms);
        }
        self.reads.push_back((now, read));
        while self.reads.len() > LOOKS_MAX {
            self.reads.pop_front();
        }
        while self.rates.len() > LOOKS_MAX {
            self.rates.pop_front();
        }
    }

    fn result(&mut self, alert: Alert) {
        // The last count of a window and user is the word that counts.
        self.windows.entry(alert.start_ms).or_default().insert(alert.user_id, alert.count);
        while self.windows.len() > WINDOWS_MAX {
            self.windows.pop_first();
        }
    }

    /// Records a second, over the last moments.
    fn rate(&self) -> Option<u64> {
        let (now, read) = self.reads.back()?;
        let recent = self.reads.iter().find(|(at, _)| now.duration_since(*at) <= RATE_SPAN);
        let (then, had) = recent.filter(|(at, _)| at != now)?;
        let ms = u64::try_from(now.duration_since(*then).as_millis()).ok()?.max(1);
        Some(read.saturating_sub(*had).saturating_mul(1000) / ms)
    }

    /// Users with most crashes in the newest windows that have results.
    fn users(&self) -> Vec<(&str, u64, usize)> {
        let mut users: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for (user, count) in self.windows.values().flatten() {
            let (total, windows) = users.entry(user).or_default();
            *total += count;
            *windows += 1;
        }
        let mut users: Vec<_> =
            users.into_iter().map(|(user, (total, windows))| (user, total, windows)).collect();
        users.sort_by(|(a, a_total, _), (b, b_total, _)| b_total.cmp(a_total).then(a.cmp(b)));
        users
    }
}

/// Draws everything.
pub fn render(state: &State, now: Timestamp, frame: &mut Frame<'_>) {
    let [head, rates, middle, foot] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(state, now)), head);
    rate_line(state, frame, rates);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(middle);
    partitions(state, now, frame, left);
    users(state, frame, right);
    let said = match &state.blind {
        Some(why) => plain(why).red(),
        None => "q ends".dim(),
    };
    frame.render_widget(Paragraph::new(Line::from(said)), foot);
}

fn header(state: &State, now: Timestamp) -> Vec<Line<'static>> {
    let status = state.monitor.status.clone().unwrap_or_default();
    let name = format!("{}/{}", state.monitor.namespace().unwrap_or_default(), state.monitor.name_any());
    let ready = find(&status, "Ready");
    let reason = ready.map_or("not looked at yet".to_owned(), |ready| ready.reason.clone());
    let reason = match ready.map(|ready| ready.status.as_str()) {
        Some("True") => reason.green(),
        _ => reason.yellow(),
    };
    let age = state.seen_at.map_or("-".to_owned(), |at| since(at.as_millisecond(), now));
    let answers = || state.answers.values().flatten();
    let lag: i64 = answers().flat_map(|answer| answer.input.values()).map(|partition| partition.lag).sum();
    let watermark =
        answers().flat_map(|answer| answer.aggregate.values()).filter_map(|shard| shard.watermark_ms).min();
    let watermark = watermark.map_or("not known yet".to_owned(), |ms| {
        format!("{} UTC, {} behind the clock", time(ms), since(ms, now))
    });
    let rate = state.rate().map_or("-".to_owned(), grouped);
    let results: u64 = answers().map(|answer| answer.totals.results).sum();
    let late = status.late_records.map_or(0, |late| late.dropped);
    vec![
        Line::from(vec![name.bold(), "  ".into(), reason, format!("  seen {age} ago").dim()]),
        Line::from(format!("Workers     {} ready of {}", status.ready_replicas, state.monitor.spec.replicas)),
        Line::from(format!("Reads       {rate} records/s, lag {}", count(lag))),
        Line::from(format!("Event time  {watermark}")),
        Line::from(format!(
            "Results     {} since the workers began; too late {}",
            grouped(results),
            count(late)
        )),
    ]
}

fn rate_line(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let rates: Vec<u64> = state.rates.iter().copied().skip(state.rates.len().saturating_sub(width)).collect();
    let highest = rates.iter().copied().max().unwrap_or(0);
    let title = format!(" records/s, at most {} ", grouped(highest));
    let line =
        Sparkline::default().block(Block::bordered().title(title)).data(&rates).style(Style::new().cyan());
    frame.render_widget(line, area);
}

fn partitions(state: &State, now: Timestamp, frame: &mut Frame<'_>, area: Rect) {
    let owned: BTreeMap<i32, _> = state
        .answers
        .iter()
        .filter_map(|(pod, answer)| Some((pod, answer.as_ref().ok()?)))
        .flat_map(|(pod, answer)| {
            answer.input.iter().map(move |(number, partition)| (*number, (pod, partition)))
        })
        .collect();
    let row = |(number, (pod, partition)): (&i32, &(&String, &crashmonitor_core::status::InputPartition))| {
        let lag = count(partition.lag);
        Row::new([
            Cell::from(number.to_string()),
            Cell::from(pod.rsplit('-').next().unwrap_or_default().to_owned()),
            Cell::from(crate::status::input_state(partition.state)),
            Cell::from(lag),
            Cell::from(partition.mark_ms.map_or("-".to_owned(), |ms| since(ms, now))),
        ])
    };
    let widths = [
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(16),
        Constraint::Length(12),
        Constraint::Min(6),
    ];
    let table = Table::new(owned.iter().map(row), widths)
        .header(Row::new(["PARTITION", "WORKER", "STATE", "LAG", "BEHIND"]).bold())
        .block(Block::bordered().title(" input "));
    frame.render_widget(table, area);
}

fn users(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let title = match (state.windows.keys().next(), state.windows.keys().next_back()) {
        (Some(first), Some(last)) if first != last => {
            format!(" most crashes, {} to {} ", clock(*first), clock(*last))
        }
        (Some(first), _) => format!(" most crashes, {} ", clock(*first)),
        _ => " most crashes ".to_owned(),
    };
    let block = Block::bordered().title(title);
    if let Some(why) = &state.no_results {
        let text = Paragraph::new(why.clone()).wrap(ratatui::widgets::Wrap { trim: true }).block(block);
        return frame.render_widget(text, area);
    }
    let users = state.users();
    let row = |(user, total, windows): &(&str, u64, usize)| {
        Row::new([Cell::from(plain(user)), Cell::from(grouped(*total)), Cell::from(windows.to_string())])
    };
    let widths = [Constraint::Min(12), Constraint::Length(8), Constraint::Length(7)];
    let table = Table::new(users.iter().take(usize::from(area.height)).map(row), widths)
        .header(Row::new(["USER", "CRASHES", "WINDOWS"]).bold())
        .block(block);
    frame.render_widget(table, area);
}

fn clock(ms: i64) -> String {
    crashmonitor_bench::text::clock(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crashmonitor_bench::oracle::Mode;
    use crashmonitor_core::status::{InputPartition, Status, Totals};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    const START_MS: i64 = 1_768_142_570_000;

    fn state() -> State {
        let monitor = json!({
            "apiVersion": "crashmonitor.dev/v1alpha1", "kind": "CrashMonitor",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"kafka": {"bootstrapServers": "k:1"}, "input": {"topic": "logs"}},
        });
        State::new(serde_json::from_value(monitor).unwrap())
    }

    fn seen(state: &State, records: u64) -> News {
        let input = BTreeMap::from([(2, InputPartition { lag: 1234, ..InputPartition::default() })]);
        let totals = Totals { records, ..Totals::default() };
        let answer = Status { input, totals, ..Status::default() };
        let answers = Answers::from([("checkout-worker-0".to_owned(), Ok(answer))]);
        News::Seen(Box::new(state.monitor.clone()), answers, Timestamp::from_millisecond(START_MS).unwrap())
    }

    fn alert(start_ms: i64, user: &str, count: u64) -> News {
        let user_id = user.to_owned();
        News::Result(Alert { start_ms, end_ms: start_ms + 10_000, user_id, count, mode: Mode::Update })
    }

    #[test]
    fn a_picture_has_rates_lag_and_users() {
        let mut state = state();
        let begun = Instant::now();
        state.take(seen(&state, 1_000), begun);
        state.take(seen(&state, 3_000), begun + Duration::from_secs(2));
        for (start_ms, user, count) in
            [(START_MS, "ann", 3), (START_MS, "ann", 4), (START_MS + 10_000, "bob\u{1b}", 9)]
        {
            state.take(alert(start_ms, user, count), begun);
        }
        let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
        let now = Timestamp::from_millisecond(START_MS + 3_000).unwrap();
        terminal.draw(|frame| render(&state, now, frame)).unwrap();
        let picture = terminal.backend().to_string();
        for part in [
            "shop/checkout",
            "1,000 records/s, lag 1,234",
            "seen 3s ago",
            "bob\\u{1b}",
            "14:42:50 to 14:43:00",
        ] {
            assert!(picture.contains(part), "{part}\n{picture}");
        }
        assert_eq!(state.users(), [("bob\u{1b}", 9, 1), ("ann", 4, 1)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut state = state();
        let begun = Instant::now();
        for n in 0..1_000_u32 {
            state.take(seen(&state, u64::from(n)), begun + Duration::from_secs(1) * n);
            state.take(alert(START_MS + i64::from(n) * 10_000, "ann", 3), begun);
        }
        assert_eq!(
            (state.reads.len(), state.rates.len(), state.windows.len()),
            (LOOKS_MAX, LOOKS_MAX, WINDOWS_MAX)
        );
    }

    #[test]
    fn a_small_terminal_is_no_reason_to_panic() {
        let mut terminal = Terminal::new(TestBackend::new(7, 3)).unwrap();
        terminal.draw(|frame| render(&state(), Timestamp::UNIX_EPOCH, frame)).unwrap();
    }
}
