// What the page says: to the eye, to a screen reader, and where something went wrong.

export const find = (id) => document.getElementById(id);

export function announce(text) {
  const place = find("announcer");
  if (place.textContent !== text) place.textContent = text;
}

export function showProblem(words) {
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

export const GONE = {
  title: "The page's own program does not answer",
  advice: "It may have been ended. Start data-owner ui again and open the address that it prints.",
};

export async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: "This was not possible", advice: "Open the address that data-owner ui printed, then try again." };
  }
}

export function focusOn(id) {
  const place = find(id);
  if (place) place.focus({ preventScroll: false });
}
