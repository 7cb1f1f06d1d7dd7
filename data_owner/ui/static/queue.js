// The list of images: it stays where it was scrolled to, shows the image that is chosen, and says how many are below.

import { find } from "./words.js";

let top = 0;
let shown = "";
let seen = false;

export function beforeQueue() {
  const list = find("entries");
  top = list ? list.scrollTop : 0;
  const chosen = list && list.querySelector("[aria-current]");
  seen = chosen ? inside(chosen, list) : false;
}

export function queue() {
  const list = find("entries");
  if (!list) return;
  list.scrollTop = top;
  const chosen = list.querySelector("[aria-current]");
  if (chosen && (chosen.id !== shown || (seen && !inside(chosen, list)))) chosen.scrollIntoView({ block: "nearest" });
  shown = chosen ? chosen.id : "";
  list.addEventListener("scroll", hidden, { passive: true });
  hidden();
}

function inside(item, list) {
  const [place, frame] = [item.getBoundingClientRect(), list.getBoundingClientRect()];
  return place.bottom > frame.top && place.top < frame.bottom;
}

function hidden() {
  const list = find("entries");
  if (!list) return;
  const frame = list.getBoundingClientRect();
  const middles = [...list.children].map((item) => {
    const place = item.getBoundingClientRect();
    return (place.top + place.bottom) / 2;
  });
  const above = middles.filter((middle) => middle < frame.top).length;
  const below = middles.filter((middle) => middle > frame.bottom).length;
  const more = find("entries-more");
  const parts = [above ? `${above} more above` : "", below ? `${below} more below` : ""].filter(Boolean);
  more.textContent = parts.length ? `${parts.join(", ")}: scroll the list` : "";
  more.hidden = parts.length === 0;
  list.parentElement.classList.toggle("more-above", above > 0);
  list.parentElement.classList.toggle("more-below", below > 0);
}

addEventListener("resize", hidden);
