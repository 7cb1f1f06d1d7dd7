// Runs before there is anything to press. What is pressed before page.js is there waits for it: a form that the browser
// sent by itself would delete without a question, and a button would do nothing.

"use strict";

const early = {
  pressed: [],
  submit(event) {
    const form = event.target;
    if (form.method !== "post" || "plain" in form.dataset) return;
    event.preventDefault();
    const button = event.submitter;
    early.pressed.push(() => form.requestSubmit(button));
  },
  click(event) {
    const button = event.target.closest("button[type=button]");
    if (button) early.pressed.push(() => button.click());
  },
  // Called once, by page.js, when it listens itself. Who pressed again because nothing happened meant it once.
  end() {
    removeEventListener("submit", early.submit);
    removeEventListener("click", early.click);
    if (early.pressed.length) early.pressed[0]();
  },
};

addEventListener("submit", early.submit);
addEventListener("click", early.click);
