// Formats text: a record's keys and values, confidence, sizes, errors.
// Knows nothing of the page and nothing of the network.

const MAX_PLAIN_NUMBER = 1e15; // beyond it, floats no longer hold all digits
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

// Whether `valueOf` returns a placeholder instead of the model's text.
export function isPlaceholder(value) {
  return value === null || value === undefined || value === "" || typeof value === "boolean";
}

function numberOf(value) {
  const size = Math.abs(value);
  if (size >= MAX_PLAIN_NUMBER || (size > 0 && size < 1e-6)) return String(value);
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: 6 }).format(value);
}

// 0.812 -> 81 %. Never 100 % or 0 %: rounding must not claim what the model did not.
export function percentOf(share) {
  if (share > 0.99) return "> 99\u00a0%";
  if (share < 0.01) return "< 1\u00a0%";
  return `${Math.round(share * 100)}\u00a0%`;
}

export function percentInWords(share) {
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
  const reason = words.trim();
  return reason && reason[0].toLocaleUpperCase() + reason.slice(1) + (/[.!?…]$/u.test(reason) ? "" : ".");
}

export function calibrationNote(calibrated) {
  return calibrated
    ? "Confidence is calibrated on held-out photos: of the fields with 80 % confidence, about 80 % " +
        "are right."
    : "Confidence is the model’s own probability, not calibrated; it is often too high.";
}

export function precisionNote(target) {
  return typeof target === "number"
    ? ` Of the accepted fields at least ${Number((100 * target).toFixed(1))}\u00a0% are right.`
    : null;
}

// An error with its title, reason and advice. `reason` is the server's own sentence, where it has
// one; `again` says whether the same photo may succeed later.
export class RequestError extends Error {
  constructor(kind, { reason = "", detail = "", requestId = "", wait = null } = {}) {
    const { title, advice, again } = ERRORS[kind];
    super(title);
    Object.assign(this, { kind, title, advice, again, reason, detail, requestId, wait });
  }
}

const ERRORS = {
  kind: {
    title: "Unsupported file",
    advice: "Use a JPEG, PNG or WebP.",
  },
  link: {
    title: "This is a link, not a photo",
    advice: "Save the image first, then drop the file here.",
  },
  unreadable: {
    title: "The file cannot be opened",
    advice: "If it is a folder, drop a single photo. If it has moved, choose it again.",
  },
  large: {
    title: "The photo is too large",
    advice: "Use a smaller or more compressed version.",
  },
  image: {
    title: "The photo is invalid",
    advice: "Try another one, or save this one as JPEG.",
  },
  key: {
    title: "An API key is required",
    advice: "The server’s operator has it. It is kept in this tab only, until it is closed.",
  },
  forbidden: {
    title: "Access denied",
    advice: "Ask the server’s operator for access.",
    again: true,
  },
  missing: {
    title: "Endpoint not found",
    advice: "Start `phi-vision serve` and open its page.",
    again: true,
  },
  busy: {
    title: "The server is busy",
    advice: "Its queue is full. Try again in a moment.",
    again: true,
  },
  closing: {
    title: "The server is not ready",
    advice: "It is starting or shutting down. Try again in a minute.",
    again: true,
  },
  slow: {
    title: "The request timed out",
    advice: "Try again, or use a smaller photo.",
    again: true,
  },
  broken: {
    title: "Internal server error",
    advice: "Try again; if it persists, report the request id to the server’s operator.",
    again: true,
  },
  away: {
    title: "No connection to the server",
    advice: "Check the server and the network, then try again.",
    again: true,
  },
  garbage: {
    title: "Invalid response",
    advice: "The response is not phi-vision’s. Is there a proxy in between?",
    again: true,
  },
};
