// Says things in words: a record's keys and values, how sure the model is, what went wrong.
// Knows nothing of the page and nothing of the network.

const LONGEST_PLAIN_NUMBER = 1e15; // beyond it, digits are no longer all true in a float
const UNITS = ["bytes", "kB", "MB", "GB"];

// full_price -> Full price; category3_code -> Category 3 code; imageURL -> Image URL
export function nameOf(key) {
  const words = key
    .replace(/[_\-.\s]+/gu, " ")
    .replace(/(\p{Ll})(\p{Lu})/gu, "$1 $2")
    .replace(/(\p{L})(\p{N})/gu, "$1 $2")
    .trim();
  return words ? words[0].toLocaleUpperCase() + words.slice(1) : "(without a name)";
}

// 1490 -> 1,490 in the reader's own language; null, the empty text and truth values in words.
export function valueOf(value) {
  if (value === null || value === undefined) return "nothing";
  if (value === "") return "empty";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (typeof value === "number") return numberOf(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

// Whether `valueOf` gives our words instead of the model's.
export function isSaidByUs(value) {
  return value === null || value === undefined || value === "" || typeof value === "boolean";
}

function numberOf(value) {
  const size = Math.abs(value);
  if (size >= LONGEST_PLAIN_NUMBER || (size > 0 && size < 1e-6)) return String(value);
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: 6 }).format(value);
}

// 0.812 -> 81 %. Never 100 % or 0 %: rounding must not claim what the model did not.
export function percentOf(share) {
  if (share > 0.99) return "> 99\u00a0%";
  if (share < 0.01) return "< 1\u00a0%";
  return `${Math.round(share * 100)}\u00a0%`;
}

export function spokenPercentOf(share) {
  if (share > 0.99) return "more than 99 percent";
  if (share < 0.01) return "less than 1 percent";
  return `${Math.round(share * 100)} percent`;
}

// 0.4213 -> 0.42 s; 12.34 -> 12 s; 95 -> 1 min 35 s
export function secondsOf(seconds) {
  if (seconds < 9.95) return `${seconds < 0.095 ? seconds.toFixed(3) : seconds.toPrecision(2)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

// 22821 -> 23 kB
export function sizeOf(bytes) {
  const unit = bytes ? Math.min(Math.floor(Math.log10(bytes) / 3), UNITS.length - 1) : 0;
  const amount = bytes / 1000 ** unit;
  return `${amount < 9.95 && unit ? amount.toFixed(1) : Math.round(amount)} ${UNITS[unit]}`;
}

// send a smaller image -> Send a smaller image.
export function sentenceOf(words) {
  const said = words.trim();
  return said && said[0].toLocaleUpperCase() + said.slice(1) + (/[.!?…]$/u.test(said) ? "" : ".");
}

export function trustOf(calibrated) {
  return calibrated
    ? "Percentages are calibrated: on photos that the model had not seen, about that share of its " +
        "answers was right."
    : "Percentages are the model’s own and were not compared with the truth; they are often too " +
        "high.";
}

// What went wrong, why, and what can be done. `said` is the server's own sentence, where it has
// one; `again` says whether the same photo may get an answer later.
export class Refusal extends Error {
  constructor(kind, { said = "", detail = "", number = "", wait = null } = {}) {
    const { title, advice, again } = REFUSALS[kind];
    super(title);
    Object.assign(this, { kind, title, advice, again, said, detail, number, wait });
  }
}

const REFUSALS = {
  kind: {
    title: "This is not a photo that can be read",
    advice: "Save it as JPEG, PNG or WebP and try that.",
  },
  link: {
    title: "That was a link, not a photo",
    advice: "Save the image first, then drop the file here.",
  },
  unreadable: {
    title: "The file cannot be opened",
    advice: "If it is a folder, drop one photo of it. If it has moved, choose it again.",
  },
  large: {
    title: "The photo is too large",
    advice: "Save it with fewer pixels or more compression and try that.",
  },
  image: {
    title: "The server cannot use this photo",
    advice: "Try another one, or save this one again as JPEG.",
  },
  key: {
    title: "This server asks for a key",
    advice: "Whoever runs it can give you one. It is kept in this tab only, until it is closed.",
  },
  forbidden: {
    title: "The server does not let you ask",
    advice: "Ask whoever runs it for access.",
    again: true,
  },
  missing: {
    title: "There is no model behind this page",
    advice: "The address that it asks is not there. Start `phi-vision serve` and open its page.",
    again: true,
  },
  busy: {
    title: "The server is busy",
    advice: "Others are waiting too. Try again in a moment.",
    again: true,
  },
  closing: {
    title: "The server is not taking photos right now",
    advice: "It is starting, or about to stop. Try again in a minute.",
    again: true,
  },
  slow: {
    title: "The answer took too long",
    advice: "The server gave up on it. Try again, or try a smaller photo.",
    again: true,
  },
  broken: {
    title: "Something went wrong in the server",
    advice: "The photo may be fine. Try again; if it stays, tell whoever runs the server.",
    again: true,
  },
  away: {
    title: "The server does not answer",
    advice: "It may have stopped, or the connection is gone. Check both and try again.",
    again: true,
  },
  garbage: {
    title: "The answer cannot be understood",
    advice: "What came back is not what phi-vision writes. Is something between here and it?",
    again: true,
  },
};
