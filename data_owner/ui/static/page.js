// The page's script. No library, nothing from elsewhere.
//
//   words.js       what is said
//   uploading.js   files go to the page's server
//   following.js   what its server tells is shown
//   viewer.js      looking at one entry
//   queue.js       the list of images
//   asking.js      asks before something cannot be undone
//   taking.js      an answer is copied or printed
//   page.js        what changes something
//   early.js       what is pressed before these are there

import { confirmed } from "./asking.js";
import { choose, focusThen, follow, setUp } from "./following.js";
import { queue } from "./queue.js";
import { taking } from "./taking.js";
import { dropping } from "./uploading.js";
import { GONE, problemOf, showProblem } from "./words.js";

const main = document.body.dataset.page === "main";

async function send(form, submitter) {
  if (!(await confirmed(form))) return;
  const body = new URLSearchParams(new FormData(form, submitter));
  const headers = { Accept: "application/json" };
  if (submitter) submitter.disabled = true;
  try {
    const response = await fetch(form.action, { method: "POST", headers, body });
    if (!response.ok) showProblem(await problemOf(response));
    else showProblem(null);
    if (response.ok && !main) location.reload();
    if (response.ok && "leaves" in form.dataset) choose("", true);
    if (response.ok && form.dataset.then) focusThen(form.dataset.then);
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

taking();
if (main) {
  const shown = () => new URL(location.href).searchParams.get("entry") || "";
  addEventListener("popstate", () => choose(shown(), false));
  history.replaceState({ entry: document.body.dataset.entry || "" }, "");
  dropping();
  queue();
  setUp();
  follow();
}
early.end();
