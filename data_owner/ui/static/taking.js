// An answer is taken along: copied as text, printed or saved as PDF.

import { announce, find } from "./words.js";

async function copy(button) {
  const source = find(button.dataset.copy);
  let done = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without the right to the clipboard the text is shown, and selected for Ctrl-C.
    done = false;
    source.hidden = false;
    getSelection().selectAllChildren(source);
  }
  button.textContent = done ? "Copied" : "Press Ctrl-C to copy";
  announce(button.textContent);
}

export function taking() {
  addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-print]");
    if (!button) return;
    if ("print" in button.dataset) print();
    else copy(button);
  });
}
