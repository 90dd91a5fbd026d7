// The page's state: its photos, the one that is shown, the one that is being processed.
// A photo goes from waiting (and pausing, where the server is busy) to predicted, failed or
// cancelled; `change` is the only place where that happens. Nothing outlives the tab.

import { requestRecord, typeOf } from "./api.js";
import { show, showStrip, announcement, tick } from "./render.js";
import { RequestError, sizeOf } from "./format.js";

const MAX_PHOTOS = 8; // that the strip remembers, with their bytes
const MAX_PAUSE = 60; // seconds that the page waits by itself where the server is busy
const DEFAULT_PAUSE = 3; // seconds, where a busy server does not say how long
const KEY = "phi-vision key"; // its name in the tab's storage

const at = (id) => document.getElementById(id);
const prediction = at("prediction");

let photos = []; // newest first
let shown = null;
let running = null; // {photo, controller}
let key = sessionStorage.getItem(KEY) ?? "";

async function addPhoto(file, extra = 0) {
  if (shown && !photos.includes(shown)) URL.revokeObjectURL(shown.url);
  const photo = { file, url: URL.createObjectURL(file), extra, state: "waiting", since: now() };
  try {
    photo.type = await typeOf(file);
  } catch (error) {
    running?.controller.abort();
    showPhoto(Object.assign(photo, { state: "failed", error }));
    announce(announcement(photo));
    return;
  }
  photos = [photo, ...photos];
  for (const old of photos.splice(MAX_PHOTOS)) URL.revokeObjectURL(old.url);
  showPhoto(photo);
  await read(photo);
}

// Reads a photo; whatever was being read is stopped, as one is enough for one reader.
async function read(photo, { constrained = false } = {}) {
  running?.controller.abort();
  const controller = new AbortController();
  running = { photo, controller };
  change(photo, { state: "waiting", since: now(), constrained });
  try {
    change(photo, { state: "predicted", prediction: await requestWithRetry(photo, controller.signal) });
  } catch (problem) {
    if (controller.signal.aborted) change(photo, { state: "cancelled" });
    else if (problem instanceof RequestError) change(photo, { state: "failed", error: problem });
    else throw problem;
  } finally {
    if (running?.controller === controller) running = null;
  }
}

// Asks a second time by itself where the server is busy and says that it will not take long.
async function requestWithRetry(photo, signal) {
  const how = { type: photo.type, key, constrained: photo.constrained, signal };
  try {
    return await requestRecord(photo.file, how);
  } catch (problem) {
    const pause = problem.wait ?? DEFAULT_PAUSE;
    if (problem.kind !== "busy" || pause > MAX_PAUSE) throw problem;
    change(photo, { state: "pausing", pause, until: now() + pause * 1000 });
    await sleep(pause * 1000, signal);
    change(photo, { state: "waiting" });
    return requestRecord(photo.file, how);
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function change(photo, facts) {
  Object.assign(photo, facts);
  if (photo === shown) {
    showRecord();
    announce(announcement(photo));
  }
  drawStrip();
}

function showPhoto(photo) {
  shown = photo;
  at("invitation").hidden = true;
  at("image").hidden = false;
  at("unshown").hidden = true;
  const image = at("shown");
  image.hidden = false;
  image.alt = `Your photo ${photo.file.name}`;
  image.src = photo.url;
  describe(photo);
  showRecord();
  drawStrip();
}

function describe(photo) {
  const { naturalWidth: width, naturalHeight: height } = at("shown");
  const extent = width ? `${width} × ${height}, ` : "";
  const more = photo.extra ? ` The first of ${photo.extra + 1} files.` : "";
  at("caption").textContent = `${photo.file.name} (${extent}${sizeOf(photo.file.size)})${more}`;
}

function showRecord() {
  const focused = prediction.contains(document.activeElement);
  const busy = shown.state === "waiting" || shown.state === "pausing";
  show(prediction, shown, actions);
  at("record").setAttribute("aria-busy", String(busy));
  at("record").dataset.state = shown.state;
  tick(prediction, shown, now());
  // The focus must not fall back to the top of the page with the button that it was on.
  const box = at("key");
  if (box) box.focus();
  else if (focused) (prediction.querySelector(".progress button") ?? at("record-title")).focus();
  // On a phone: as far down as the prediction needs, so that the photo stays in sight too.
  if (!busy) (prediction.querySelector(".fields") ?? at("record")).scrollIntoView({ block: "nearest" });
}

function drawStrip() {
  at("last").hidden = photos.length === 0;
  showStrip(at("strip"), photos, shown, (photo) => {
    showPhoto(photo);
    announce(announcement(photo));
  });
}

const actions = {
  cancel: () => running?.controller.abort(),
  again: () => read(shown, { constrained: shown.constrained }),
  constrain: () => read(shown, { constrained: true }),
  copy: async (text) => {
    const done = await copy(text);
    announce(done ? "The record was copied as JSON." : "The record could not be copied.");
    return done;
  },
  key: (words) => {
    keepKey(words);
    read(shown, { constrained: shown.constrained });
  },
};

function keepKey(words) {
  key = words;
  if (words) sessionStorage.setItem(KEY, words);
  else sessionStorage.removeItem(KEY);
  at("identity").hidden = !words;
}

// Pages that come over plain HTTP from another machine have no clipboard, only the old way.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = document.createElement("textarea");
  area.className = "unseen";
  area.value = text;
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

const now = () => performance.now();
const announce = (words) => { at("status").textContent = words; };
const addFirst = (files) => { if (files.length) addPhoto(files[0], files.length - 1); };

function listenToFiles() {
  for (const [control, input] of [["choose", "file"], ["take", "camera"]]) {
    at(control).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      addFirst([...at(input).files]);
      at(input).value = ""; // so that the same file can be chosen twice
    });
  }
  at("sample").addEventListener("click", async () => {
    const response = await fetch("page/sample.jpg");
    addPhoto(new File([await response.blob()], "sample.jpg", { type: "image/jpeg" }));
  });
  document.addEventListener("paste", (event) => addFirst([...event.clipboardData.files]));
}

function listenToDragging() {
  const mark = (over) => { document.body.classList.toggle("dragging", over); };
  const isOurs = (event) => event.target.id !== "key";
  document.addEventListener("dragover", (event) => {
    if (!isOurs(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!isOurs(event)) return;
    event.preventDefault(); // or the browser would leave the page for the image
    const { files } = event.dataTransfer;
    if (files.length) addFirst([...files]);
    else showError(new RequestError("link"));
  });
}

function showError(error) {
  show(prediction, { state: "failed", error }, actions);
  announce(announcement({ state: "failed", error }));
}

at("shown").addEventListener("load", () => describe(shown));
at("shown").addEventListener("error", ({ target }) => {
  target.removeAttribute("src");
  target.hidden = true;
  at("unshown").hidden = false;
});
at("forget").addEventListener("click", () => {
  keepKey("");
  announce("The key was removed.");
  at("choose").focus();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") actions.cancel(); });
setInterval(() => { if (shown) tick(prediction, shown, now()); }, 250);
listenToFiles();
listenToDragging();
keepKey(key);
const records = new URL("v1/records", document.baseURI);
at("terminal").textContent =
  `curl ${records} \\\n  --header "Content-Type: image/jpeg" --data-binary @photo.jpg`;
