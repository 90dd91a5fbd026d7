// Builds what stands under “Record” in each state, and the strip of last photos. Whatever comes
// from outside becomes text, never markup.

import {
  isPlaceholder, nameOf, percentOf, secondsOf, percentInWords, calibrationNote, precisionNote,
  valueOf,
} from "./format.js";

const SLOW_SECONDS = 15; // seconds after which a hint appears
const LOW_CONFIDENCE = 0.5; // below it, a field is more likely wrong than right
const MAX_LABEL = 26; // characters below a small image: two lines of it

// make("p", {class: "soft"}, "words", another) -> an element; functions become listeners.
export function make(tag, settings = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...inside.filter((each) => each !== null));
  return element;
}

const button = (words, click, kind = "") =>
  make("button", { type: "button", class: kind, click }, words);

// State of a photo -> (photo, actions) -> what is shown. `actions` are what buttons do.
const STATES = { waiting, pausing, predicted, failed, cancelled };

export function show(panel, photo, actions) {
  panel.replaceChildren(...STATES[photo.state](photo, actions));
}

// What changes while waiting, called four times a second; the rest stays, so that nothing flickers.
export function tick(panel, photo, now) {
  const seconds = Math.floor((now - photo.since) / 1000);
  const left = Math.max(Math.ceil((photo.until - now) / 1000), 0);
  const timer = panel.querySelector("[role=timer]");
  if (timer) timer.textContent = photo.state === "pausing" ? `${left} s` : `${seconds} s`;
  const hint = panel.querySelector(".hint");
  if (hint && seconds >= SLOW_SECONDS) hint.hidden = false;
}

function waiting(photo, actions) {
  return [
    make("div", { class: "progress" },
      make("p", {}, "Reading the photo… ", make("span", { role: "timer", class: "soft" }, "0 s")),
      button("Cancel", actions.cancel)),
    skeleton(),
    make("p", { class: "hint soft", hidden: true },
      "This takes longer than usual. You can wait, or cancel and try again."),
  ];
}

function pausing(photo, actions) {
  return [
    make("div", { class: "progress" },
      make("p", {}, "The server is busy. Trying again in ",
        make("span", { role: "timer" }, `${Math.ceil(photo.pause)} s`)),
      button("Cancel", actions.cancel)),
    skeleton("still"),
  ];
}

function skeleton(kind = "") {
  const line = () => make("div", { class: "line" }, make("i"), make("b"));
  return make("div", { class: `skeleton ${kind}`, "aria-hidden": "true" }, line(), line(), line());
}

function cancelled(photo, actions) {
  return [
    make("p", { class: "soft" }, "Cancelled."),
    make("div", { class: "buttons" }, button("Retry", actions.again)),
  ];
}

function predicted(photo, actions) {
  const { prediction } = photo;
  if (prediction.record === null) return [...unparsed(photo, actions), facts(prediction)];
  return [...parsed(prediction), facts(prediction), raw(prediction), copyButton(prediction, actions)];
}

function parsed(prediction) {
  const fields = Object.entries(prediction.record).map(([key, value], place) =>
    field(key, value, prediction, place));
  const sure = Object.keys(prediction.confidence ?? {}).length > 0;
  return [
    fields.length
      ? make("dl", { class: "fields" }, ...fields)
      : make("p", { class: "soft" }, "The record has no fields."),
    make("p", { class: "small", id: "calibration" },
      sure ? calibrationNote(prediction.calibrated) : "This server returns no confidence.",
      precisionNote(prediction.target_precision)),
  ];
}

function unparsed(photo, actions) {
  return [
    make("p", { class: "unparsed" }, make("b", {}, "The output does not parse. "),
      "The generated text does not match the template:"),
    make("blockquote", { dir: "auto" }, photo.prediction.text || "(nothing)"),
    photo.constrained ? null : make("div", { class: "buttons" },
      button("Retry with constrained decoding", actions.constrain, "first")),
  ].filter((each) => each !== null);
}

function field(key, value, prediction, place) {
  const kind = prediction.kinds?.[key];
  const known = ["text", "category", "number"].includes(kind) ? kind : "text";
  const ours = isPlaceholder(value) ? " ours" : "";
  const name = nameOf(key);
  return make("div", { class: place ? "field" : "field headline" },
    make("dt", {}, name),
    make("dd", {},
      make("p", { class: `value ${known}${ours}`, dir: "auto" }, make("span", {}, valueOf(value))),
      meter(name, prediction.confidence?.[key]),
      review(prediction, key)));
}

// Whether a person has to look at a field, where the server promises a precision.
function review(prediction, key) {
  const accepted = prediction.accept?.[key];
  if (typeof accepted !== "boolean") return null;
  const path = prediction.accepted_path?.[key];
  const words = accepted ? "Accepted" : path ? `Accepted as far as ${path}` : "Needs review";
  return make("p", { class: accepted ? "review accepted" : "review", dir: "auto" }, words);
}

function meter(name, share) {
  if (typeof share !== "number" || !(share >= 0 && share <= 1)) return null;
  const doubtful = share < LOW_CONFIDENCE;
  const bar = make("div", {
    class: "bar", role: "meter", "aria-label": `Confidence in ${name}`,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100),
    "aria-valuetext": percentInWords(share) + (doubtful ? ", low confidence" : ""),
  }, make("i"));
  // Through the object model, which a policy without inline styles allows.
  bar.style.setProperty("--share", share);
  return make("div", { class: doubtful ? "sure doubtful" : "sure" }, bar,
    make("span", { "aria-hidden": "true" }, percentOf(share)),
    doubtful ? make("span", { class: "warning", "aria-hidden": "true" }, "low confidence") : null);
}

function facts(prediction) {
  const { seconds, model, usage } = prediction;
  const tokens = usage?.completion_tokens;
  const words = [
    typeof seconds === "number" ? `Latency ${secondsOf(seconds)}` : null,
    typeof tokens === "number" ? `${tokens} ${tokens === 1 ? "token" : "tokens"}` : null,
    typeof model === "string" ? model : null,
  ];
  return make("p", { class: "facts small" }, ...words.filter((each) => each !== null).map((each) => make("span", {}, each)));
}

function raw(prediction) {
  return make("details", {}, make("summary", {}, "Generated text"),
    make("pre", { tabindex: 0, dir: "auto" }, prediction.text || "(nothing)"));
}

function copyButton(prediction, actions) {
  const copy = button("Copy as JSON", async () => {
    const done = await actions.copy(JSON.stringify(prediction.record, null, 2));
    copy.textContent = done ? "Copied" : "Could not copy";
    setTimeout(() => { copy.textContent = "Copy as JSON"; }, 2000);
  });
  return make("div", { class: "buttons" }, copy);
}

function failed(photo, actions) {
  const { error } = photo;
  const requestId = error.requestId ? `Request id: ${error.requestId}.` : "";
  return [
    make("div", { class: "error" },
      make("h3", {}, error.title),
      ...[error.reason, error.advice, requestId].filter(Boolean).map((each) =>
        make("p", { dir: "auto" }, each))),
    error.kind === "key" ? keyForm(actions) : null,
    error.again ? make("div", { class: "buttons" }, button("Retry", actions.again)) : null,
    error.detail
      ? make("details", {}, make("summary", {}, "Response"),
        make("pre", { tabindex: 0, dir: "auto" }, error.detail))
      : null,
  ].filter((each) => each !== null);
}

function keyForm(actions) {
  const box = make("input", {
    id: "key", type: "password", autocomplete: "off", autocapitalize: "off",
    spellcheck: "false", required: true, pattern: "\\s*[!-~]+\\s*",
    title: "Printable ASCII characters without spaces",
  });
  const submit = (event) => {
    event.preventDefault();
    if (box.value.trim()) actions.key(box.value.trim());
  };
  return make("form", { submit }, make("label", { for: "key" }, "Key"),
    make("div", { class: "entry" }, box,
      make("button", { type: "submit", class: "first" }, "Use key")));
}

// What each photo came to, in one line: its first field, or its state in words.
const OUTCOMES = {
  waiting: () => "Reading…",
  pausing: () => "Waiting…",
  predicted: ({ prediction }) => {
    const values = Object.values(prediction.record ?? {});
    return values.length ? valueOf(values[0]) : "Not parsed";
  },
  failed: () => "Failed",
  cancelled: () => "Cancelled",
};

const outcomeOf = (photo) => OUTCOMES[photo.state](photo);

const shortened = (words) =>
  words.length > MAX_LABEL ? `${words.slice(0, MAX_LABEL - 1).trimEnd()}…` : words;

export function showStrip(strip, photos, current, choose) {
  const focused = [...strip.children].findIndex((each) => each.contains(document.activeElement));
  strip.replaceChildren(...photos.map((photo) => {
    const label = `${outcomeOf(photo)}, ${photo.file.name}`;
    return make("li", {}, make("button", {
      type: "button", class: `last ${photo.state}`, "aria-label": label, title: label,
      "aria-current": photo === current ? "true" : null, click: () => choose(photo),
    }, make("img", {
      src: photo.url, alt: "", decoding: "async",
      error: ({ target }) => target.removeAttribute("src"),
    }),
    make("span", { dir: "auto" }, shortened(outcomeOf(photo)))));
  }));
  strip.children[focused]?.querySelector("button").focus();
}

// The text for screen readers when a photo changes its state.
export function announcement(photo) {
  const { state, prediction, error, pause } = photo;
  if (state === "waiting") return "Reading the photo.";
  if (state === "pausing") return `The server is busy. Trying again in ${Math.ceil(pause)} seconds.`;
  if (state === "cancelled") return "Cancelled.";
  if (state === "failed") {
    return [`${error.title}.`, error.reason, error.advice].filter(Boolean).join(" ");
  }
  if (prediction.record === null) return "Done. The output does not parse.";
  const fields = Object.entries(prediction.record).map(([key, value]) => {
    const share = prediction.confidence?.[key];
    const sure = typeof share === "number" ? `, ${percentInWords(share)} confidence` : "";
    const doubt = prediction.accept?.[key] === false ? ", needs review" : "";
    return `${nameOf(key)}: ${valueOf(value)}${sure}${doubt}`;
  });
  return ["Done", ...fields].join(". ");
}
