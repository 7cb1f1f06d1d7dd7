// The page's script: drops files, follows the session, and looks at pictures. No library, nothing from elsewhere.
"use strict";

(() => {
  const find = (id) => document.getElementById(id);
  const main = document.body.dataset.page === "main";
  let chosen = document.body.dataset.entry || "";

  // Words

  function announce(text) {
    const place = find("announcer");
    if (place.textContent !== text) place.textContent = text;
  }

  function showProblem(words) {
    const place = find("page-problem");
    if (!place) return;
    place.replaceChildren();
    if (words) {
      const title = document.createElement("h2");
      title.textContent = words.title;
      const advice = document.createElement("p");
      advice.textContent = words.advice;
      place.append(title, advice);
      if (words.detail) {
        const detail = document.createElement("p");
        detail.className = "detail";
        detail.textContent = words.detail;
        place.append(detail);
      }
    }
    place.hidden = !words;
  }

  const GONE = {
    title: "The page's own program does not answer",
    advice: "It may have been ended. Start data-owner ui again and open the address that it prints.",
  };

  async function problemOf(response) {
    try {
      return await response.json();
    } catch {
      return { title: "This was not possible", advice: "Open the address that data-owner ui printed, then try again." };
    }
  }

  // Files

  async function upload(files) {
    const drop = crypto.randomUUID();
    const status = find("upload-status");
    let arrived = 0;
    let first = "";
    showProblem(null);
    for (const file of files) {
      status.textContent = files.length === 1 ? "Reading the image" : `Reading ${arrived + 1} of ${files.length}`;
      const headers = {
        Accept: "application/json",
        "Content-Type": "application/octet-stream",
        "X-Drop": drop,
        "X-File-Name": encodeURIComponent(file.name),
      };
      try {
        const response = await fetch("/entries", { method: "POST", headers, body: file });
        if (!response.ok) {
          showProblem(await problemOf(response));
          break;
        }
        const { entry } = await response.json();
        first = first || entry;
        if (first === entry) choose(entry, true);
      } catch {
        showProblem(GONE);
        break;
      }
      arrived += 1;
    }
    status.textContent = arrived === files.length && arrived > 0 ? `${arrived === 1 ? "One image" : `${arrived} images`} read` : "";
    if (first) focusOn("entry-heading");
  }

  function choose(entry, push) {
    chosen = entry;
    if (push) history.pushState({ entry }, "", `/?entry=${encodeURIComponent(entry)}`);
    wake();
  }

  function dropping() {
    const input = find("file-input");
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = "";
      if (files.length) upload(files);
    });
    let depth = 0;
    const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
    const veil = (shown) => document.body.classList.toggle("dropping", shown);
    addEventListener("dragenter", (event) => {
      if (!carriesFiles(event)) return;
      depth += 1;
      veil(true);
    });
    addEventListener("dragleave", (event) => {
      if (!carriesFiles(event)) return;
      depth = Math.max(0, depth - 1);
      if (depth === 0) veil(false);
    });
    addEventListener("dragover", (event) => {
      if (carriesFiles(event)) event.preventDefault();
    });
    addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth = 0;
      veil(false);
      const files = [...event.dataTransfer.files];
      if (files.length) upload(files);
    });
  }

  // Following the session

  let revision = -1;
  let waiting = null;
  let lostSince = 0;

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

  async function follow() {
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
    region.innerHTML = part.html;
    region.dataset.key = part.key;
    for (const [id, value] of typed) if (find(id)) find(id).value = value;
    if (focused && find(focused) && !find(focused).disabled) find(focused).focus({ preventScroll: true });
    // A button that was pressed is disabled meanwhile, and has lost the focus to the body.
    if (name === "entry") entryReplaced(was, inside || before === document.body);
  }

  function entryReplaced(was, inside) {
    const entry = document.querySelector("#region-entry [data-entry]");
    setUp();
    if (!entry || entry.dataset.entry !== was.entry || entry.dataset.state === was.state) return;
    const state = entry.dataset.state;
    if (state === "answered") {
      const label = find("result-heading").textContent;
      const bar = document.querySelector(".bars .bar-value");
      announce(`Answer: ${label}${bar ? `, ${bar.textContent}` : ""}`);
      focusOn("result-heading");
    } else {
      const words = find("running-heading") || document.querySelector("[data-testid=entry-error] h2") || find("entry-heading");
      announce(words.textContent);
      if (inside && document.activeElement === document.body) focusOn(words.id || "entry-heading");
    }
  }

  function focusOn(id) {
    const place = find(id);
    if (place) place.focus({ preventScroll: false });
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

  // What changes something

  async function send(form, submitter) {
    const question = form.dataset.confirm;
    if (question && !confirm(question)) return;
    const body = new URLSearchParams(new FormData(form, submitter));
    const headers = { Accept: "application/json" };
    if (submitter) submitter.disabled = true;
    try {
      const response = await fetch(form.action, { method: "POST", headers, body });
      if (!response.ok) showProblem(await problemOf(response));
      else showProblem(null);
      if (response.ok && !main) location.reload();
      if (response.ok && "leaves" in form.dataset) choose("", true);
    } catch {
      showProblem(GONE);
    }
    if (submitter) submitter.disabled = false;
  }

  addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || "plain" in form.dataset) return;
    event.preventDefault();
    send(form, event.submitter);
  });

  addEventListener("change", (event) => {
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });

  addEventListener("click", (event) => {
    const link = event.target.closest("a.entry-link");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    choose(new URL(link.href).searchParams.get("entry"), true);
  });

  addEventListener("popstate", () => {
    if (main) choose(new URL(location.href).searchParams.get("entry") || "", false);
  });

  // Looking at pictures

  function setUp() {
    patient();
    windowing();
    heatMap();
  }

  function patient() {
    const button = find("patient-toggle");
    if (!button) return;
    const place = find("patient");
    const toggle = async () => {
      const show = place.hidden;
      kept.patient = show ? button.dataset.patient : "";
      if (show) {
        try {
          const response = await fetch(button.dataset.patient);
          if (!response.ok) throw new Error("gone");
          place.innerHTML = await response.text();
        } catch {
          place.textContent = "The file cannot be read any more.";
        }
      } else {
        place.replaceChildren();
      }
      place.hidden = !show;
      button.setAttribute("aria-expanded", String(show));
      button.textContent = show ? "Hide patient" : "Show patient";
    };
    button.addEventListener("click", toggle);
    if (kept.patient === button.dataset.patient) toggle();
  }

  const digits = (value, span, unit) => value.toFixed(span > 50 ? 0 : 2) + unit;
  const kept = { patient: "", window: null };  // of the entry that is shown, over changes of its state

  function windowing() {
    const canvas = find("windowed");
    if (!canvas) return;
    const [center, width] = [find("window-center"), find("window-width")];
    const [low, high] = [Number(canvas.dataset.low), Number(canvas.dataset.high)];
    const span = high - low;
    const inverted = canvas.dataset.inverted === "yes";
    let steps = null;
    let asked = false;

    const at = (slider, from, to) => from + ((to - from) * slider.value) / 1000;
    const write = () => {
      const values = [at(center, low, high), at(width, 0, span)];
      const words = values.map((value) => digits(value, span, canvas.dataset.unit));
      find("window-center-value").textContent = words[0];
      find("window-width-value").textContent = words[1];
      center.setAttribute("aria-valuetext", words[0]);
      width.setAttribute("aria-valuetext", words[1]);
      return values;
    };
    const reset = () => {
      center.value = Math.round((1000 * (Number(canvas.dataset.center) - low)) / span);
      width.value = Math.round((1000 * Number(canvas.dataset.width)) / span);
      canvas.hidden = true;
      find("original").hidden = false;
      write();
    };
    const draw = async () => {
      const [middle, wide] = write();
      asked = true;
      kept.window = { of: canvas.dataset.values, center: center.value, width: width.value };
      if (steps === null) {
        const response = await fetch(canvas.dataset.values);
        if (!response.ok) return;
        steps = new Uint16Array(await response.arrayBuffer());
      }
      if (!asked) return;
      const table = new Uint8ClampedArray(65536);
      for (let step = 0; step < 65536; step += 1) {
        const value = low + (step / 65535) * span;
        const shown = ((value - (middle - wide / 2)) / Math.max(wide, span / 1e5)) * 255;
        table[step] = inverted ? 255 - Math.min(255, Math.max(0, shown)) : shown;
      }
      const picture = new ImageData(canvas.width, canvas.height);
      const grey = new Uint32Array(picture.data.buffer);
      for (let index = 0; index < steps.length; index += 1) grey[index] = 0xff000000 | (table[steps[index]] * 0x010101);
      canvas.getContext("2d").putImageData(picture, 0, 0);
      canvas.hidden = false;
      find("original").hidden = true;
    };
    for (const slider of [center, width]) slider.addEventListener("input", draw);
    find("window-reset").addEventListener("click", () => {
      asked = false;
      kept.window = null;
      reset();
    });
    reset();
    if (kept.window && kept.window.of === canvas.dataset.values) {
      center.value = kept.window.center;
      width.value = kept.window.width;
      draw();
    }
  }

  function heatMap() {
    const opacity = find("heat-map-opacity");
    const layer = find("heat-map");
    if (!opacity || !layer) return;
    const show = () => {
      layer.style.opacity = String(opacity.value / 100);
      opacity.setAttribute("aria-valuetext", `${opacity.value} percent`);
    };
    opacity.addEventListener("input", show);
    const choice = find("heat-map-class");
    choice.addEventListener("change", () => {
      layer.src = `${choice.dataset.source}${choice.value}.png`;
      layer.alt = `Heat map: what speaks ${choice.selectedOptions[0].textContent}`;
    });
    show();
  }

  if (main) {
    history.replaceState({ entry: chosen }, "");
    dropping();
    setUp();
    follow();
  }
})();
