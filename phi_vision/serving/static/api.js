// The API client: POST /v1/records with the bytes of one photo. Every failure becomes a
// RequestError; cancellation by the signal is an AbortError, as fetch throws it.

import { RequestError, sentenceOf, sizeOf } from "./format.js";

const LARGE_BODY = 5_000_000; // above it, a closed connection may mean that the body was too large
const MAX_DETAIL = 2_000; // characters of an invalid response

const STATUSES = {
  400: "image",
  401: "key",
  403: "forbidden",
  404: "missing",
  405: "missing",
  408: "slow",
  413: "large",
  415: "image",
  422: "image",
  429: "busy",
  502: "away",
  503: "closing",
  504: "slow",
};

// The type by the first bytes: names may be wrong, and some systems give no type.
export async function typeOf(file) {
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  } catch {
    throw new RequestError("unreadable", { reason: `“${file.name}” could not be opened.` });
  }
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("\x89PNG\r\n")) return "image/png";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "image/webp";
  if (/^image\/(jpeg|png|webp)$/u.test(file.type) && file.size) return file.type;
  const found = file.size ? file.type || "of an unknown kind" : "empty";
  throw new RequestError("kind", { reason: `“${file.name}” is ${found}.` });
}

// Returns the parsed response: {record, kinds, confidence, text, seconds, …}.
export async function requestRecord(file, { type, key, constrained, signal }) {
  const headers = { "content-type": type, accept: "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const address = constrained ? "v1/records?constrained=true" : "v1/records";
  const [response, text] = await send(address, { method: "POST", headers, body: file, signal });
  const body = parse(text);
  if (!response.ok) throw errorOf(response, body, text, key);
  if (!isPrediction(body)) throw new RequestError("garbage", { detail: text.slice(0, MAX_DETAIL) });
  return body;
}

async function send(address, request) {
  try {
    const response = await fetch(address, { ...request, cache: "no-store" });
    return [response, await response.text()];
  } catch (problem) {
    if (request.signal.aborted) throw problem;
    // A server may close the connection while a body that is too large is still being sent.
    const size = request.body.size;
    const reason = size > LARGE_BODY ? `${sizeOf(size)} may exceed its limit.` : "";
    throw new RequestError("away", { reason });
  }
}

function errorOf(response, body, text, key) {
  const { status, headers } = response;
  const kind = STATUSES[status] ?? (status >= 500 ? "broken" : "image");
  const message = body?.error?.message;
  // What the server says of keys is meant for programs.
  const wrongKey = key ? "This key is wrong." : "";
  const reason = typeof message === "string" ? sentenceOf(message) : "";
  return new RequestError(kind, {
    reason: kind === "key" ? wrongKey : reason,
    detail: reason || kind === "key" ? "" : `${status} ${text}`.slice(0, MAX_DETAIL),
    requestId: status >= 500 ? (headers.get("x-request-id") ?? "") : "",
    wait: waitOf(headers.get("retry-after")),
  });
}

// Retry-After is a number of seconds or a date (RFC 9110, 10.2.3); null where it is neither.
function waitOf(words) {
  if (words === null) return null;
  const seconds = /^\d+(\.\d+)?$/u.test(words)
    ? Number(words)
    : (Date.parse(words) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(seconds, 0) : null;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function isPrediction(body) {
  return isObject(body) && typeof body.text === "string"
    && (body.record === null || isObject(body.record));
}
