// Asks before something cannot be undone. Works by keyboard: the focus is on Cancel, Escape is Cancel.

import { find } from "./words.js";

// Whether the user said yes to a form's question; true for a form without one.
export function confirmed(form) {
  if (!form.dataset.confirm) return Promise.resolve(true);
  const dialog = find("question");
  find("question-words").textContent = form.dataset.confirm;
  find("question-yes").textContent = form.dataset.do || "Yes";
  dialog.returnValue = "no";
  dialog.showModal();
  find("question-no").focus();
  return new Promise((answered) => {
    dialog.addEventListener("close", () => answered(dialog.returnValue === "yes"), { once: true });
  });
}
