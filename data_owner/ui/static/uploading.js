// Files that are chosen or dropped go to the page's server, one after the other.

import { choose, focusThen } from "./following.js";
import { GONE, find, problemOf, showProblem } from "./words.js";

async function upload(files) {
  const drop = crypto.randomUUID();
  const status = find("upload-status");
  let arrived = 0;
  let first = "";
  showProblem(null);
  for (const file of files) {
    status.textContent = files.length === 1 ? "Reading the image" : `Reading ${arrived + 1} of ${files.length}`;
    const name = file.name.replace(/\p{Surrogate}/gu, "\ufffd"); // halves of characters cannot be encoded
    const headers = {
      Accept: "application/json",
      "Content-Type": "application/octet-stream",
      "X-Drop": drop,
      "X-File-Name": encodeURIComponent(name),
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
  if (first) focusThen("entry-heading"); // which may not be shown yet
}

export function dropping() {
  const input = find("file-input");
  addEventListener("click", (event) => {
    if (event.target.closest("[data-choose]")) input.click();
  });
  const take = () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) upload(files);
  };
  input.addEventListener("change", take);
  take(); // what was chosen while this script was still on its way
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
