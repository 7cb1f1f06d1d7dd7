// Follows what the page's server tells: which entry is shown, what of it has changed, how far the session is.

import { GONE, announce, find, focusOn, showProblem } from "./words.js";
import { beforeQueue, queue } from "./queue.js";
import { heatMap, patient, windowing } from "./viewer.js";

let chosen = document.body.dataset.entry || "";
let revision = -1;
let waiting = null;
let lostSince = 0;

let then = "";

let rested = () => {};

function wake() {
  if (waiting) waiting.abort();
  rested();
}

const pause = (milliseconds) =>
  new Promise((done) => {
    rested = done;
    setTimeout(done, milliseconds);
  });

async function poll() {
  const query = new URLSearchParams({ entry: chosen });
  const asked = chosen;
  if (poll.entry === chosen) query.set("since", String(revision));
  for (const region of document.querySelectorAll("[data-region]")) query.set(`key-${region.dataset.region}`, region.dataset.key);
  waiting = new AbortController();
  const response = await fetch(`/state?${query}`, { headers: { Accept: "application/json" }, signal: waiting.signal });
  if (!response.ok) throw new Error("refused");
  const state = await response.json();
  if (asked !== chosen) return;
  revision = state.revision;
  poll.entry = chosen;
  if (lostSince) {
    lostSince = 0;
    showProblem(null);
  }
  for (const [name, part] of Object.entries(state.regions)) replace(name, part);
  if (state.entry && !chosen) chosen = poll.entry = state.entry;
  if (state.entry === null) chosen = poll.entry = "";
  showProgress(state.progress);
}

export async function follow() {
  for (;;) {
    try {
      await poll();
      await pause(5); // the server holds the next request until something changes
    } catch (error) {
      if (error.name !== "AbortError") {
        lostSince = lostSince || Date.now();
        if (Date.now() - lostSince > 1500) showProblem(GONE);
        await pause(1000);
      }
    }
  }
}

function replace(name, part) {
  const region = find(`region-${name}`);
  const before = document.activeElement;
  const inside = region.contains(before);
  const focused = inside ? before.id : "";
  const typed = new Map([...region.querySelectorAll("input[type=number]")].map((input) => [input.id, input.value]));
  const wasEntry = region.querySelector("[data-entry]");
  const was = wasEntry ? { entry: wasEntry.dataset.entry, state: wasEntry.dataset.state } : {};
  if (name === "queue") beforeQueue();
  region.innerHTML = part.html;
  region.dataset.key = part.key;
  for (const [id, value] of typed) if (find(id)) find(id).value = value;
  if (focused && find(focused) && !find(focused).disabled) find(focused).focus({ preventScroll: true });
  // A button that was pressed is disabled meanwhile, and has lost the focus to the body.
  if (name === "queue") queue();
  if (name === "entry") {
    entryReplaced(was, inside || before === document.body);
    focusThen(then);
  }
}

// The focus goes where a pressed button says, as soon as that is there: the button itself may be gone.
export function focusThen(id) {
  then = find(id) ? "" : id;
  if (!then && id) focusOn(id);
}

function entryReplaced(was, inside) {
  const entry = document.querySelector("#region-entry [data-entry]");
  setUp();
  if (!entry || entry.dataset.entry !== was.entry || entry.dataset.state === was.state) return;
  const state = entry.dataset.state;
  if (state === "answered") {
    announce(`Answer: ${document.querySelector("[data-spoken]").dataset.spoken}`);
    focusOn("result-heading");
  } else {
    const words = find("running-heading") || document.querySelector("[data-testid=entry-error] h2") || find("entry-heading");
    announce(words.textContent);
    if (inside && document.activeElement === document.body) focusOn(words.id || "entry-heading");
  }
}

export function setUp() {
  patient();
  windowing();
  heatMap();
}

function showProgress(progress) {
  const ahead = document.querySelector("[data-prepare-time]");
  if (ahead) ahead.textContent = progress && progress.entry === null ? `${progress.words}, ${progress.time}` : "";
  const running = document.querySelector("[data-running]");
  const bar = find("progress");
  if (!running || !bar || !progress || progress.entry !== running.dataset.running) return;
  if (progress.fraction === null) bar.removeAttribute("value");
  else bar.value = progress.fraction;
  find("progress-words").textContent = progress.words;
  find("progress-time").textContent = progress.time;
  const steps = [...document.querySelectorAll(".steps li")];
  const now = steps.findIndex((step) => step.dataset.step === progress.step);
  steps.forEach((step, index) => {
    step.classList.toggle("done", index < now);
    if (index === now) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
  if (showProgress.step !== progress.step) {
    showProgress.step = progress.step;
    announce(steps[now] ? steps[now].textContent : progress.words);
  }
}

export function choose(entry, push) {
  chosen = entry;
  then = "";
  if (push) history.pushState({ entry }, "", `/?entry=${encodeURIComponent(entry)}`);
  wake();
}
