// Looking at one entry: its patient, its picture through a window, its heat map.

import { find } from "./words.js";

export function patient() {
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
        place.textContent = "The file can no longer be read.";
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

export function windowing() {
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

export function heatMap() {
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
