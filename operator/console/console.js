// The console: shows what the operator's stream of events says, and says so when it says nothing.
//
// Responsible for the page and for nothing else: it only ever reads. Must never put a word into the page but as text
// (`textContent`): users' names are whatever somebody wrote into a log record.

/** Nothing for so long, though there is a heartbeat every 3 s: the operator is taken for gone. */
const SILENCE_MS = 10_000;
/** After a refusal; a connection that breaks is made anew by the browser itself. */
const RETRY_MS = 3_000;
/** Throughput is told over so long, because workers bring their figures up to date once a second only. */
const RATE_OVER_MS = 5_000;
/** How much of it is drawn. */
const HISTORY_MS = 120_000;

const $ = (id) => document.getElementById(id);
const page = document.documentElement;

const state = {
  source: null,
  retry: null,
  heard: 0,
  paused: false,
  /** The monitor that is shown: "namespace/name". */
  shown: null,
  overview: null,
  monitor: null,
  /** What was told before of this monitor, for rates: oldest first. */
  samples: [],
  rates: [],
};

// ---- Text

const number = new Intl.NumberFormat("en-GB");
const whole = (value) => number.format(Math.round(value));
const clock = (ms) => new Date(ms).toISOString().slice(11, 19);
const day = (ms) => new Date(ms).toISOString().slice(0, 10);
const interval = (start, end) => `${day(start)} ${clock(start)} – ${clock(end)}`;
const plural = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MiB`;

function span(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${+(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${+(ms / 60_000).toFixed(1)} min`;
  return `${+(ms / 3_600_000).toFixed(1)} h`;
}

/** A time, and how long before `now` it was. */
function since(ms, now) {
  return ms == null ? "unknown" : `${clock(ms)}, ${span(Math.max(0, now - ms))} ago`;
}

// ---- The page, changed only where it differs, so that neither focus nor selection is lost

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (value == null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Makes the children of `parent` be those of `items`; `make` makes one, `update` fills it. */
function list(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const key = String(keyOf(item));
    const child = known.get(key) ?? make();
    known.delete(key);
    child.dataset.key = key;
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    update(child, item);
  });
  known.forEach((child) => child.remove());
}

const row = () => document.createElement("tr");
const share = (text, of, className = "bar number") => ({ text, className, share: of });
const figure = (text) => ({ text, className: "number" });

/** A cell is a text, or `{text, className, share, title}`; the first of a row heads it. */
function table(id, items, keyOf, cellsOf) {
  list($(id), items, keyOf, row, (tr, item) => {
    cellsOf(item).forEach((given, index) => {
      const cell = typeof given === "object" ? given : { text: String(given) };
      let td = tr.children[index];
      if (!td) {
        td = document.createElement(index === 0 ? "th" : "td");
        if (index === 0) td.scope = "row";
        tr.append(td);
      }
      setText(td, cell.text);
      setAttribute(td, "class", cell.className ?? null);
      if (cell.share != null) td.style.setProperty("--share", `${(100 * Math.min(1, Math.max(0, cell.share))).toFixed(1)}%`);
    });
  });
  $(`${id}-empty`).hidden = items.length > 0;
}

// ---- Monitors

const keyOfMonitor = ({ namespace, name }) => `${namespace}/${name}`;
const hrefOf = ({ namespace, name }) => `#/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;

function makeLink() {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.append(document.createElement("span"), document.createElement("small"));
  item.append(link);
  return item;
}

function showOverview() {
  const { monitors, omitted, isComplete } = state.overview;
  list($("monitors"), monitors, keyOfMonitor, makeLink, (item, monitor) => {
    const link = item.firstChild;
    setAttribute(link, "href", hrefOf(monitor));
    setAttribute(link, "aria-current", keyOfMonitor(monitor) === state.shown ? "page" : null);
    setText(link.children[0], keyOfMonitor(monitor));
    const ready = monitor.ready ? monitor.ready.reason : "New";
    setText(link.children[1], `${ready}, ${monitor.readyReplicas} of ${plural(monitor.replicas, "worker")} ready`);
    setAttribute(link.children[1], "class", monitor.isDegraded ? "bad" : null);
  });
  const note = !isComplete ? "Not all are known yet." : omitted > 0 ? `${number.format(omitted)} more are not listed.`
    : monitors.length === 0 ? "There is no CrashMonitor." : "";
  setText($("monitors-note"), note);
  $("monitors-note").hidden = note === "";
  if (state.shown === null) showMessage(monitors.length > 0 ? "Choose a monitor." : "There is nothing to show yet.");
}

function showMessage(text) {
  setText($("message"), text);
  $("message").hidden = false;
  $("monitor").hidden = true;
}

// ---- One monitor

function remember(monitor) {
  const now = monitor.observedAtMs;
  const records = new Map();
  for (const worker of monitor.workers) if (worker.answer) records.set(worker.name, worker.answer.totals.records);
  const positions = new Map();
  for (const source of monitor.sources) if (source.worker) positions.set(source.partition, source.position);
  state.samples.push({ now, records, positions });
  while (state.samples.length > 2 && state.samples[1].now <= now - RATE_OVER_MS) state.samples.shift();
  const rate = rateOf((sample) => sample.records);
  if (rate !== null) state.rates.push({ now, rate });
  while (state.rates.length > 0 && state.rates[0].now < now - HISTORY_MS) state.rates.shift();
}

/** The rate of what is counted, over the samples there are; of one key, or of all. A count that went back began anew. */
function rateOf(counts, key) {
  const [first, last] = [state.samples[0], state.samples.at(-1)];
  if (!first || last.now - first.now < 900) return null;
  let sum = 0;
  for (const [name, value] of counts(last)) {
    const before = counts(first).get(name);
    if ((key === undefined || key === name) && before !== undefined) sum += Math.max(0, value - before);
  }
  return (sum * 1_000) / (last.now - first.now);
}

function showMonitor() {
  const monitor = state.monitor;
  if (!("workers" in monitor)) {
    showMessage(monitor.isMissing ? `There is no CrashMonitor ${keyOfMonitor(monitor)}.` : "Looking for the monitor.");
    return;
  }
  $("message").hidden = true;
  $("monitor").hidden = false;
  setText($("title"), keyOfMonitor(monitor));
  document.title = `${keyOfMonitor(monitor)} – CrashMonitor`;
  showHead(monitor);
  showFigures(monitor);
  showThroughput();
  showWindows(monitor);
  showUsers(monitor);
  showSources(monitor);
  showShards(monitor);
  showLateness(monitor);
  showWorkers(monitor);
  showEvents(monitor);
}

function showHead(monitor) {
  const { query } = monitor;
  setText($("query"), query === null ? "The resource can't be used; the condition Degraded says why."
    : `${monitor.isSuspended ? "Suspended. " : ""}From ${query.input} to ${query.output}: users with more than `
      + `${plural(query.countGreaterThan, "crash", "crashes")} in ${span(query.windowMs)}, `
      + `late records up to ${span(query.allowedLatenessMs)}.`);
  const make = () => document.createElement("li");
  const good = { Progressing: "False", Degraded: "False", DataLoss: "False", Suspended: "False" };
  list($("conditions"), monitor.conditions, (condition) => condition.name, make, (item, condition) => {
    const tone = condition.status === (good[condition.name] ?? "True") ? "good" : condition.status === "Unknown" ? null : "warn";
    setText(item, `${condition.name}: ${condition.status}, ${condition.reason}`);
    setAttribute(item, "class", condition.name === "Degraded" && tone === "warn" ? "bad" : tone);
    setAttribute(item, "title", condition.message);
  });
}

function showFigures(monitor) {
  const totals = { records: 0, results: 0, late: 0, deadLetters: 0, dataLoss: 0 };
  for (const { answer } of monitor.workers) {
    if (answer) for (const name of Object.keys(totals)) totals[name] += answer.totals[name];
  }
  const rate = rateOf((sample) => sample.records);
  const behind = monitor.watermarkMs == null ? "unknown" : span(Math.max(0, monitor.observedAtMs - monitor.watermarkMs));
  const figures = [
    ["Records a second", rate === null ? "…" : whole(rate)],
    ["Lag", plural(monitor.lag, "record")],
    ["Event time behind", behind],
    ["Held by", holderText(monitor.holder)],
    ["Results written", number.format(totals.results)],
    ["Too late, dropped", number.format(totals.late)],
    ["Dead letters", number.format(totals.deadLetters)],
    ["Records lost", number.format(totals.dataLoss)],
  ];
  const make = () => {
    const box = document.createElement("div");
    box.append(document.createElement("dt"), document.createElement("dd"));
    return box;
  };
  list($("figures"), figures, ([name]) => name, make, (box, [name, value]) => {
    setText(box.children[0], name);
    setText(box.children[1], value);
  });
}

function holderText(holder) {
  if (!holder) return "nobody";
  return holder.partition == null ? holder.reason : `${holder.partition}, ${holder.reason}`;
}

function showThroughput() {
  if (state.rates.length === 0) return;
  const last = state.rates.at(-1);
  const most = Math.max(1, ...state.rates.map(({ rate }) => rate));
  const x = (now) => (120 - ((last.now - now) * 120) / HISTORY_MS).toFixed(2);
  const points = state.rates.map(({ now, rate }) => `${x(now)},${(38 - (36 * rate) / most).toFixed(2)}`);
  setAttribute($("throughput-line"), "points", points.join(" "));
  const text = `${whole(last.rate)} records a second now, ${whole(most)} at most in the last ${span(HISTORY_MS)}.`;
  setText($("throughput-caption"), text);
  setAttribute($("throughput"), "aria-label", text);
}

function windowState(window, monitor) {
  if (window.completeIn >= monitor.shardCount && monitor.shardCount > 0) return { text: "Complete", className: "good" };
  if (window.completeIn > 0) return `Complete in ${window.completeIn} of ${monitor.shardCount}`;
  return monitor.watermarkMs != null && monitor.watermarkMs > window.startMs ? "Filling" : "Begins";
}

function showWindows(monitor) {
  const unknown = figure("too many to tell");
  table("windows", [...monitor.windows].reverse(), (window) => window.startMs, (window) => {
    const passed = monitor.watermarkMs == null ? 0 : (monitor.watermarkMs - window.startMs) / (window.endMs - window.startMs);
    const reached = Math.min(1, Math.max(0, passed));
    return [
      interval(window.startMs, window.endMs),
      windowState(window, monitor),
      share(`${Math.floor(100 * reached)} %`, reached),
      window.crashes == null ? unknown : figure(number.format(window.crashes)),
      figure(number.format(window.users)),
      window.above == null ? unknown : figure(number.format(window.above)),
    ];
  });
}

function showUsers(monitor) {
  const users = monitor.users ?? [];
  const size = monitor.query?.windowMs ?? 0;
  const threshold = monitor.query?.countGreaterThan ?? Infinity;
  setText($("users-empty"), monitor.users === null
    ? "The workers name no users: they are not told to, or there are too many." : "No window holds a crash.");
  const most = Math.max(1, ...users.map((user) => user.crashes));
  table("users", users, (user) => `${user.startMs}/${user.user}`, (user) => [
    { text: user.user, className: "user" },
    interval(user.startMs, user.startMs + size),
    share(number.format(user.crashes), user.crashes / most),
    user.crashes > threshold ? { text: "Yes", className: "warn" } : "No",
  ]);
}

function showSources(monitor) {
  table("sources", monitor.sources, (source) => source.partition, (source) => {
    const isKnown = source.worker !== null;
    const rate = isKnown ? rateOf((sample) => sample.positions, source.partition) : null;
    const state = !isKnown ? { text: "Unassigned", className: "warn" } : source.state;
    return [
      source.partition,
      source.worker ?? "nobody",
      state,
      figure(rate === null ? "…" : whole(rate)),
      isKnown ? figure(number.format(source.lag)) : figure("unknown"),
      isKnown ? since(source.markMs, monitor.observedAtMs) : "unknown",
      source.holds > 0
        ? { text: `◀ ${source.holdReason}, for ${source.holds} of ${monitor.shardCount}`, className: "warn" } : "",
    ];
  });
}

function showShards(monitor) {
  table("shards", monitor.shards, (shard) => shard.partition, (shard) => [
    shard.partition,
    shard.worker ?? { text: "nobody", className: "warn" },
    since(shard.watermarkMs, monitor.observedAtMs),
    holderText(shard.holder),
    figure(number.format(shard.openWindows)),
    (shard.recovery ?? "").replaceAll("_", " "),
    shard.lastCheckpointMs == null ? "none" : since(shard.lastCheckpointMs, monitor.observedAtMs),
  ]);
}

function showLateness(monitor) {
  const total = monitor.lateness.reduce((sum, bucket) => sum + bucket.records, 0);
  const allowed = monitor.query?.allowedLatenessMs;
  setText($("lateness-note"), "How far behind the watermark crashes were when they came, since the workers began."
    + (allowed == null ? "" : ` A window counts them until it is ${span(allowed)} behind.`));
  let lower = 0;
  const buckets = monitor.lateness.map(({ upToMs, records }) => {
    const name = upToMs == null ? `more than ${span(lower)}` : upToMs === 0 ? "not behind"
      : lower === 0 ? `up to ${span(upToMs)}` : `${span(lower)} to ${span(upToMs)}`;
    lower = upToMs ?? lower;
    return { name, records };
  });
  table("lateness", total === 0 ? [] : buckets, (bucket) => bucket.name, ({ name, records }) => [
    name,
    figure(number.format(records)),
    share(`${((100 * records) / total).toFixed(2)} %`, records / total),
  ]);
}

function workerState({ phase, isReady, isLeaving, answer }) {
  if (isLeaving) return { text: "Leaving", className: "warn" };
  if (answer?.notReadyReason) return { text: `Not ready: ${answer.notReadyReason}`, className: "wide bad" };
  if (!answer) return { text: `${phase}, does not answer`, className: "bad" };
  return isReady ? { text: "Ready", className: "good" } : { text: "Not ready", className: "warn" };
}

function reachability(given) {
  if (!given) return "not used";
  return given.reachable ? { text: "Reachable", className: "good" } : { text: given.error ?? "Not reachable", className: "wide bad" };
}

function showWorkers(monitor) {
  table("workers", monitor.workers, (worker) => worker.name, (worker) => {
    const { answer } = worker;
    const bytes = answer?.state;
    return [
      worker.name,
      workerState(worker),
      worker.node ?? "none",
      figure(number.format(worker.restarts)),
      { text: answer ? ranges(answer.input) : "unknown", className: "list" },
      { text: answer ? ranges(answer.repartition) : "unknown", className: "list" },
      bytes?.bytesMax ? share(`${mebibytes(bytes.bytes)} of ${mebibytes(bytes.bytesMax)}`, bytes.bytes / bytes.bytesMax) : "unknown",
      answer ? reachability(answer.kafka) : "unknown",
      answer ? reachability(answer.checkpointStore) : "unknown",
    ];
  });
}

/** "0–3, 7" */
function ranges(partitions) {
  const found = [];
  for (const partition of partitions) {
    const last = found.at(-1);
    if (last && last[1] === partition - 1) last[1] = partition;
    else found.push([partition, partition]);
  }
  return found.map(([from, to]) => (from === to ? from : `${from}–${to}`)).join(", ") || "none";
}

function showEvents(monitor) {
  setText($("events-empty"), monitor.events === null ? "The events can't be read." : "Nothing has happened lately.");
  const keyOf = (event) => `${event.timeMs}/${event.reason}/${event.note}`;
  table("events", monitor.events ?? [], keyOf, (event) => [
    `${day(event.timeMs)} ${clock(event.timeMs)}`,
    event.isWarning ? { text: `${event.reason} (warning)`, className: "warn" } : event.reason,
    figure(number.format(event.count)),
    { text: event.note, className: "wide" },
  ]);
}

// ---- The stream

function connect() {
  state.source?.close();
  clearTimeout(state.retry);
  const source = new EventSource(state.shown === null ? "/stream" : `/stream/${state.shown.split("/").map(encodeURIComponent).join("/")}`);
  state.source = source;
  const hear = (act) => (event) => {
    if (source !== state.source) return;
    state.heard = Date.now();
    act(JSON.parse(event.data));
    if (!state.paused) show();
    showConnection();
  };
  source.addEventListener("monitors", hear((overview) => { state.overview = overview; }));
  source.addEventListener("monitor", hear((monitor) => {
    state.monitor = monitor;
    if ("workers" in monitor) remember(monitor);
  }));
  source.addEventListener("alive", hear(() => {}));
  source.onerror = () => {
    if (source !== state.source) return;
    state.gone = true;
    showConnection();
    if (source.readyState === EventSource.CLOSED) state.retry = setTimeout(connect, RETRY_MS);
  };
  source.onopen = () => { state.gone = false; };
}

function show() {
  if (state.overview) showOverview();
  if (state.monitor && keyOfMonitor(state.monitor) === state.shown) showMonitor();
}

function showConnection() {
  const isAway = state.gone || (state.heard > 0 && Date.now() - state.heard > SILENCE_MS);
  const was = state.heard > 0 ? ` What is shown is from ${clock(state.heard)} UTC.` : "";
  const [name, text] = isAway ? ["away", `The operator does not answer; trying again.${was}`]
    : state.paused ? ["paused", `Paused.${was}`] : state.heard === 0 ? ["connecting", "Connecting"] : ["live", "Live"];
  // The time goes on while it is paused, and must not be read aloud each second.
  if ($("connection").dataset.state !== name) {
    $("connection").dataset.state = name;
    setText($("connection"), text);
  }
  page.classList.toggle("stale", isAway);
}

// ---- What a person does

function route() {
  const match = /^#\/([^/]+)\/([^/]+)$/.exec(location.hash);
  let shown = null;
  try {
    shown = match ? `${decodeURIComponent(match[1])}/${decodeURIComponent(match[2])}` : null;
  } catch { /* no name of a monitor */ }
  if (shown === state.shown && state.source) return;
  Object.assign(state, { shown, monitor: null, samples: [], rates: [] });
  document.title = "CrashMonitor";
  showMessage(shown === null ? "Choose a monitor." : "Waiting for the operator.");
  setAttribute($("throughput-line"), "points", "");
  setText($("throughput-caption"), "Not measured yet.");
  if (state.overview) showOverview();
  connect();
}

function pause() {
  state.paused = !state.paused;
  setAttribute($("pause"), "aria-pressed", String(state.paused));
  if (!state.paused) show();
  showConnection();
}

const THEMES = ["system", "light", "dark"];

function storedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // No storage: the theme lasts as long as the page.
  }
}

function setTheme(theme) {
  if (theme === "system") delete page.dataset.theme;
  else page.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
  try {
    localStorage.setItem("theme", theme);
  } catch { /* the same */ }
}

/** Arrow keys go from monitor to monitor. */
function walk(event) {
  const links = [...$("monitors").querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, to))].focus();
}

$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", () => {
  const now = page.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
$("monitors").addEventListener("keydown", walk);
addEventListener("hashchange", route);
setTheme(THEMES.includes(storedTheme()) ? storedTheme() : "system");
setInterval(showConnection, 1_000);
route();
