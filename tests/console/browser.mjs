// A real browser that does what a person does with the console, and looks at what the page shows.
//
// Responsible for the page alone: each line of standard input is a step as JSON, each line of standard output its outcome.
// What the operator, the workers and Kafka do meanwhile is the caller's affair. Must never put anything into the page but
// what a person could: keys, clicks, addresses.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mkdtempSync, rmSync } from "node:fs";

const require = createRequire(join(process.env.CONSOLE_PACKAGES, "/"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const TIMEOUT = 60_000;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const profile = mkdtempSync(join(tmpdir(), "console-browser-"));
let context;
let page;
let origin;
/** What no page may do: errors, refusals by its policy, requests to somebody else. */
const complaints = [];
/** Set while the operator is away: then the browser complains rightly. */
let mayFail = false;

const text = (selector) => page.locator(selector).innerText();
const cells = (row) => row.locator("th, td").allInnerTexts();
const rows = async (id) => Promise.all((await page.locator(`#${id} > tr`).all()).map(cells));

/** Waits until `probe`, which runs in the page, gives something, and gives that. */
async function until(what, probe, argument) {
  const handle = await page.waitForFunction(probe, argument, { timeout: TIMEOUT, polling: 100 })
    .catch(async (error) => { throw new Error(`waiting for ${what}: ${error.message}\n${await text("body")}`); });
  return handle.jsonValue();
}

/** What the keyboard is at, in words. */
const focused = () => page.evaluate(() => {
  const at = document.activeElement;
  const label = at.getAttribute("aria-labelledby");
  return at.id || (label ? `scroll:${label}` : at.textContent.trim());
});

async function tabTo(wanted) {
  const passed = [];
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    passed.push(await focused());
    if (passed.at(-1).includes(wanted)) return passed;
  }
  throw new Error(`Tab does not lead to ${wanted}, only to ${passed.join(" | ")}`);
}

/** Has axe look for what keeps people out. */
async function assertAccessible(what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  const told = violations.map((v) => `${v.id}: ${v.nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
  assert.deepEqual(told, [], `axe finds in the page ${what}`);
}

const steps = {
  /** Opens the console, and sees that there is a list and no monitor yet. */
  async open({ url }) {
    origin = new URL(url).origin;
    context = await chromium.launchPersistentContext(profile, {
      executablePath: "/usr/bin/chromium", headless: true, args: FLAGS, viewport: { width: 1280, height: 900 },
      timezoneId: "America/New_York", locale: "en-GB",
    });
    page = context.pages()[0] ?? await context.newPage();
    page.on("console", (message) => {
      if (message.type() === "error" && !mayFail) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== origin) complaints.push(`asked for ${request.url()}`);
    });
    page.on("dialog", (dialog) => {
      complaints.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    await page.goto(url);
    await until("the list of monitors", () => document.querySelectorAll("#monitors a").length > 0);
    return { monitors: await page.locator("#monitors a span").allInnerTexts(), message: await text("#message") };
  },

  /** Chooses a monitor with keys alone, from a fresh page. */
  async choose({ monitor }) {
    await page.reload();
    await until("the list of monitors", () => document.querySelectorAll("#monitors a").length > 0);
    const passed = await tabTo(monitor);
    await page.keyboard.press("Enter");
    await until("the monitor", (name) => document.querySelector("#title").textContent === name, monitor);
    await until("the mark of the choice", () => document.querySelector("#monitors a[aria-current=page]") !== null);
    assert.equal(await page.title(), `${monitor} – CrashMonitor`);
    return { passed };
  },

  /** Waits until every section has what a monitor at work has, and gives it all. */
  async read({ partitions, workers }) {
    await until("all sections", ([partitions, workers]) => {
      const count = (id) => document.querySelectorAll(`#${id} > tr`).length;
      const ready = [...document.querySelectorAll("#workers > tr")].filter((row) => row.children[1].textContent === "Ready");
      const said = (id) => document.querySelector(`#${id}`).textContent;
      return count("windows") >= 3 && count("users") >= 5 && count("sources") === partitions && count("lateness") > 5
        && ready.length === workers && count("events") > 0 && said("windows").includes("Complete")
        && said("windows").includes("Filling") && said("sources").includes("◀") && !said("sources").includes("Unassigned")
        && document.querySelector("#throughput-line").getAttribute("points").split(" ").length > 5;
    }, [partitions, workers]);
    const found = { figures: await text("#figures"), conditions: await text("#conditions"), query: await text("#query") };
    for (const id of ["windows", "users", "sources", "shards", "lateness", "workers", "events"]) found[id] = await rows(id);
    found.throughput = await text("#throughput-caption");
    return found;
  },

  /** Sees the same window gain crashes, and event time go on, while nobody does anything. */
  async updates() {
    const last = () => {
      const filling = [...document.querySelectorAll("#windows > tr")].find((row) => row.children[1].textContent === "Filling");
      return filling && { interval: filling.children[0].textContent, crashes: +filling.children[3].textContent.replaceAll(",", "") };
    };
    const before = await until("a window that fills", last);
    const after = await until("that window to gain crashes", (before) => {
      const row = [...document.querySelectorAll("#windows > tr")].find((row) => row.children[0].textContent === before.interval);
      const crashes = row && +row.children[3].textContent.replaceAll(",", "");
      return row && (crashes > before.crashes ? { crashes } : null);
    }, before);
    await until("that window to be complete", (before) => [...document.querySelectorAll("#windows > tr")]
      .some((row) => row.children[0].textContent === before.interval && row.children[1].textContent === "Complete"), before);
    await until("that window to close", (before) => ![...document.querySelectorAll("#windows > tr")]
      .some((row) => row.children[0].textContent === before.interval), before);
    return { before, after };
  },

  /** Waits until a user is shown, and sees that its name is text. */
  async user({ user }) {
    await until(`the user ${user}`, (user) => [...document.querySelectorAll("#users th")]
      .some((cell) => cell.textContent === user), user);
    const cell = page.locator("#users th").filter({ hasText: user }).first();
    assert.equal(await cell.locator("*").count(), 0, "the name has become markup");
    assert.equal(await page.locator("main img, main script, main b").count(), 0);
    assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
    return { row: await cells(cell.locator("..")) };
  },

  /** Goes over the whole page with keys alone, pauses it, and goes on. */
  async keyboard() {
    await page.evaluate(() => { scrollTo(0, 0); document.activeElement.blur(); });
    const passed = await tabTo("scroll:events-heading");
    await page.reload();
    await until("figures", () => document.querySelector("#figures").children.length > 0);
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await focused(), "main");
    await page.reload();
    await until("figures", () => document.querySelector("#figures").children.length > 0);
    await tabTo("pause");
    await page.keyboard.press("Space");
    assert.equal(await page.locator("#pause").getAttribute("aria-pressed"), "true");
    await until("the word", () => document.querySelector("#connection").textContent.startsWith("Paused."));
    // Nothing changes over so much time as three looks of the operator take, which go on.
    const changed = await page.evaluate(() => new Promise((resolve) => {
      const observer = new MutationObserver((changes) => resolve(changes.map((change) => change.target.textContent)));
      observer.observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true });
      setTimeout(() => resolve(null), 3_500);
    }));
    assert.equal(changed, null, "a paused page changes");
    await page.keyboard.press("Space");
    await until("it to go on", () => document.querySelector("#connection").textContent === "Live");
    const first = page.locator("#monitors a").first();
    await first.focus();
    await page.keyboard.press("End");
    assert.equal(await focused(), await page.locator("#monitors a").last().evaluate((link) => link.textContent.trim()));
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Home");
    assert.equal(await focused(), await first.evaluate((link) => link.textContent.trim()));
    return { passed };
  },

  /** Looks at it light and dark, as the system says and as a person says; and has axe look for what keeps people out. */
  async themes({ pictures }) {
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const seen = {};
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      seen[colorScheme] = await back();
      await assertAccessible(`when it is ${colorScheme}`);
      await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
      await page.screenshot({ path: join(pictures, `console-${colorScheme}.png`), fullPage: colorScheme === "light" });
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.locator("#theme").focus();
    await page.keyboard.press("Enter");
    await page.keyboard.press("Enter");
    assert.equal(await text("#theme"), "Theme: dark");
    assert.equal(await back(), seen.dark, "the person's choice goes before the system's");
    await page.reload();
    assert.equal(await back(), seen.dark, "the choice is kept");
    await page.locator("#theme").press("Enter");
    assert.equal(await back(), seen.light);
    // Narrow, as on a telephone: nothing sticks out, tables scroll in their own frames.
    await page.setViewportSize({ width: 390, height: 800 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `the page is ${wide} wide`);
    await page.setViewportSize({ width: 1280, height: 900 });
    return seen;
  },

  /** Waits for a cell of a table to have a word. */
  async cell({ table, word }) {
    await until(`${word} in ${table}`, ([table, word]) => document.querySelector(`#${table}`).textContent.includes(word), [table, word]);
    return { rows: await rows(table) };
  },

  /** From now on the operator may be away. */
  async depart() {
    mayFail = true;
    return {};
  },

  /** Sees the page say that it is, and keep what it had. */
  async away({ pictures }) {
    await until("the page to say so", () => document.querySelector("#connection").dataset.state === "away");
    assert.match(await text("#connection"), /The operator does not answer; trying again\. What is shown is from \d\d:\d\d:\d\d UTC\./);
    assert.ok((await rows("sources")).length > 0, "what was known is gone");
    await assertAccessible("while the operator is away");
    await page.screenshot({ path: join(pictures, "console-away.png"), clip: { x: 0, y: 0, width: 1280, height: 420 } });
    return { said: await text("#connection") };
  },

  /** Sees it come back by itself. */
  async back() {
    await until("the page to be live again", () => document.querySelector("#connection").textContent === "Live");
    mayFail = false;
    return {};
  },

  /** A monitor that is not there. */
  async missing({ url }) {
    await page.goto(url);
    await until("the message", () => document.querySelector("#message").textContent.startsWith("There is no CrashMonitor "));
    return { message: await text("#message") };
  },

  /** Nothing was wrong all the time. */
  async close() {
    assert.deepEqual(complaints, []);
    await context.close();
    return {};
  },
};

const lines = createInterface({ input: process.stdin });
for await (const line of lines) {
  const { step, ...given } = JSON.parse(line);
  let outcome;
  try {
    outcome = { ok: await steps[step](given) };
  } catch (error) {
    outcome = { error: error.stack ?? String(error), complaints };
    await page?.screenshot({ path: join(tmpdir(), "console-failed.png"), fullPage: true }).catch(() => {});
  }
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}
await context?.close();
rmSync(profile, { recursive: true, force: true });
