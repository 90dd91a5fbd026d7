// Builds what stands under “Record” in each state, and the strip of last photos. Whatever comes
// from outside becomes text, never markup.

import {
  isSaidByUs, nameOf, percentOf, secondsOf, spokenPercentOf, trustOf, valueOf,
} from "./wording.js";

const LONG_WAIT = 15; // seconds after which waiting is worth a word
const DOUBTFUL = 0.5; // below it, a field is more likely wrong than right
const LONGEST_LABEL = 26; // characters below a small image: two lines of it

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

// State of a photo -> (photo, acts) -> what is shown. `acts` are what buttons do.
const STATES = { waiting, pausing, answered, refused, cancelled };

export function show(panel, photo, acts) {
  panel.replaceChildren(...STATES[photo.state](photo, acts));
}

// What changes while waiting, called four times a second; the rest stays, so that nothing flickers.
export function tick(panel, photo, now) {
  const seconds = Math.floor((now - photo.since) / 1000);
  const left = Math.max(Math.ceil((photo.until - now) / 1000), 0);
  const timer = panel.querySelector("[role=timer]");
  if (timer) timer.textContent = photo.state === "pausing" ? `${left} s` : `${seconds} s`;
  const hint = panel.querySelector(".hint");
  if (hint && seconds >= LONG_WAIT) hint.hidden = false;
}

function waiting(photo, acts) {
  return [
    make("div", { class: "progress" },
      make("p", {}, "Reading the photo… ", make("span", { role: "timer", class: "soft" }, "0 s")),
      button("Cancel", acts.cancel)),
    skeleton(),
    make("p", { class: "hint soft", hidden: true },
      "This takes longer than usual. You can wait, or cancel and try again."),
  ];
}

function pausing(photo, acts) {
  return [
    make("div", { class: "progress" },
      make("p", {}, "The server is busy. Trying again in ",
        make("span", { role: "timer" }, `${Math.ceil(photo.pause)} s`)),
      button("Cancel", acts.cancel)),
    skeleton("still"),
  ];
}

function skeleton(kind = "") {
  const line = () => make("div", { class: "line" }, make("i"), make("b"));
  return make("div", { class: `skeleton ${kind}`, "aria-hidden": "true" }, line(), line(), line());
}

function cancelled(photo, acts) {
  return [
    make("p", { class: "soft" }, "Cancelled: the server was told to stop."),
    make("div", { class: "buttons" }, button("Ask again", acts.again)),
  ];
}

function answered(photo, acts) {
  const { answer } = photo;
  if (answer.record === null) return [...unformed(photo, acts), facts(answer)];
  return [...formed(answer), facts(answer), raw(answer), actions(answer, acts)];
}

function formed(answer) {
  const fields = Object.entries(answer.record).map(([key, value], place) =>
    field(key, value, answer, place));
  const sure = Object.keys(answer.confidence ?? {}).length > 0;
  return [
    fields.length
      ? make("dl", { class: "fields" }, ...fields)
      : make("p", { class: "soft" }, "The record has no fields."),
    make("p", { class: "small", id: "trust" },
      sure ? trustOf(answer.calibrated) : "This server does not say how sure the model is."),
  ];
}

function unformed(photo, acts) {
  const held = photo.constrained;
  return [
    make("p", { class: "unformed" }, make("b", {}, "The model answered in another form. "),
      "No fields can be read from what it wrote:"),
    make("blockquote", { dir: "auto" }, photo.answer.text || "(nothing)"),
    held ? null : make("div", { class: "buttons" },
      button("Ask again, held to the form", acts.constrain, "first")),
  ].filter((each) => each !== null);
}

function field(key, value, answer, place) {
  const kind = answer.kinds?.[key];
  const known = ["text", "category", "number"].includes(kind) ? kind : "text";
  const ours = isSaidByUs(value) ? " ours" : "";
  const name = nameOf(key);
  return make("div", { class: place ? "field" : "field headline" },
    make("dt", {}, name),
    make("dd", {},
      make("p", { class: `value ${known}${ours}`, dir: "auto" }, make("span", {}, valueOf(value))),
      meter(name, answer.confidence?.[key])));
}

function meter(name, share) {
  if (typeof share !== "number" || !(share >= 0 && share <= 1)) return null;
  const doubtful = share < DOUBTFUL;
  const bar = make("div", {
    class: "bar", role: "meter", "aria-label": `Confidence in ${name}`,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100),
    "aria-valuetext": spokenPercentOf(share) + (doubtful ? ", look twice" : ""),
  }, make("i"));
  // Through the object model, which a policy without inline styles allows.
  bar.style.setProperty("--share", share);
  return make("div", { class: doubtful ? "sure doubtful" : "sure" }, bar,
    make("span", { "aria-hidden": "true" }, percentOf(share)),
    doubtful ? make("span", { class: "look", "aria-hidden": "true" }, "look twice") : null);
}

function facts(answer) {
  const { seconds, model, usage } = answer;
  const tokens = usage?.completion_tokens;
  const words = [
    typeof seconds === "number" ? `Answered in ${secondsOf(seconds)}` : null,
    typeof tokens === "number" ? `${tokens} ${tokens === 1 ? "token" : "tokens"}` : null,
    typeof model === "string" ? model : null,
  ];
  return make("p", { class: "facts small" }, ...words.filter((each) => each !== null).map((each) => make("span", {}, each)));
}

function raw(answer) {
  return make("details", {}, make("summary", {}, "The answer as it was written"),
    make("pre", { tabindex: 0, dir: "auto" }, answer.text || "(nothing)"));
}

function actions(answer, acts) {
  const copy = button("Copy as JSON", async () => {
    const done = await acts.copy(JSON.stringify(answer.record, null, 2));
    copy.textContent = done ? "Copied" : "Could not copy";
    setTimeout(() => { copy.textContent = "Copy as JSON"; }, 2000);
  });
  return make("div", { class: "buttons" }, copy);
}

function refused(photo, acts) {
  const { refusal } = photo;
  const number = refusal.number ? `It knows this question as ${refusal.number}.` : "";
  return [
    make("div", { class: "refusal" },
      make("h3", {}, refusal.title),
      ...[refusal.said, refusal.advice, number].filter(Boolean).map((each) =>
        make("p", { dir: "auto" }, each))),
    refusal.kind === "key" ? keyForm(acts) : null,
    refusal.again ? make("div", { class: "buttons" }, button("Try again", acts.again)) : null,
    refusal.detail
      ? make("details", {}, make("summary", {}, "What came back"),
        make("pre", { tabindex: 0, dir: "auto" }, refusal.detail))
      : null,
  ].filter((each) => each !== null);
}

function keyForm(acts) {
  const box = make("input", {
    id: "key", type: "password", autocomplete: "off", autocapitalize: "off",
    spellcheck: "false", required: true, pattern: "\\s*[!-~]+\\s*",
    title: "Letters, digits and signs without blanks, as a header carries them",
  });
  const submit = (event) => {
    event.preventDefault();
    if (box.value.trim()) acts.key(box.value.trim());
  };
  return make("form", { submit }, make("label", { for: "key" }, "Key"),
    make("div", { class: "entry" }, box,
      make("button", { type: "submit", class: "first" }, "Ask with it")));
}

// What each photo came to, in one line: its first field, or its state in words.
const OUTCOMES = {
  waiting: () => "Reading…",
  pausing: () => "Waiting…",
  answered: ({ answer }) => {
    const values = Object.values(answer.record ?? {});
    return values.length ? valueOf(values[0]) : "Another form";
  },
  refused: () => "No answer",
  cancelled: () => "Cancelled",
};

const outcomeOf = (photo) => OUTCOMES[photo.state](photo);

const shortened = (words) =>
  words.length > LONGEST_LABEL ? `${words.slice(0, LONGEST_LABEL - 1).trimEnd()}…` : words;

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

// What is said aloud when a photo changes its state.
export function spoken(photo) {
  const { state, answer, refusal, pause } = photo;
  if (state === "waiting") return "Reading the photo.";
  if (state === "pausing") return `The server is busy. Trying again in ${Math.ceil(pause)} seconds.`;
  if (state === "cancelled") return "Cancelled.";
  if (state === "refused") {
    return [`${refusal.title}.`, refusal.said, refusal.advice].filter(Boolean).join(" ");
  }
  if (answer.record === null) return "Done. The model answered in another form.";
  const fields = Object.entries(answer.record).map(([key, value]) => {
    const share = answer.confidence?.[key];
    const sure = typeof share === "number" ? `, ${spokenPercentOf(share)} sure` : "";
    return `${nameOf(key)}: ${valueOf(value)}${sure}`;
  });
  return ["Done", ...fields].join(". ");
}
