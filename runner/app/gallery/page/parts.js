"use strict";
// Elements. Whatever comes from a manifest or a model is set as text, never as markup.

const SIGNS = { queued: "…", running: "▷", submitted: "⇡", refused: "⊘", failed: "✕", orphaned: "◌", succeeded: "✓" };

function $(id) { return document.getElementById(id); }

function make(tag, { dataset = {}, ...facts } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    name in element ? (element[name] = value) : element.setAttribute(name, value);
  }
  Object.assign(element.dataset, dataset);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function thumbnailOf(task) {
  return task.thumbnail ? `thumbnails/${task.thumbnail}` : task.path && !task.missing ? address(task.path) : null;
}

function image(source, task) {
  const element = make("img", { alt: "", decoding: "async", draggable: false });
  element.addEventListener("error", () => element.replaceWith(placeholder(task, "cannot be shown")), { once: true });
  fresh.push([element, source]);
  queueMicrotask(start);
  return element;
}

// Few thumbnails at a time are read and decoded, the newest first, and none that has left the page before its turn:
// who scrolls past hundreds of them in a second does not wait for each.
const AT_ONCE = 4, PATIENCE_MS = 1_000;
const fresh = [], waiting = [];
let coming = 0;

function start() {
  waiting.push(...fresh.splice(0).reverse());
  while (coming < AT_ONCE && waiting.length) {
    const [element, source] = waiting.pop();
    if (!element.isConnected) continue;
    coming++;
    element.src = source;
    const patience = new Promise((done) => { setTimeout(done, PATIENCE_MS); });
    Promise.race([element.decode().catch(() => {}), patience]).then(() => { coming--; start(); });
  }
}

// What stands for a picture that is not there, and why.
function placeholder(task, why) {
  const reason = why || (task.missing ? "picture is gone" : task.reason);
  return make("span", { className: "placeholder", dataset: { state: task.state } },
    make("span", { className: "sign" }, SIGNS[task.state] || "?"),
    make("span", { className: "state" }, task.state),
    reason ? make("span", { className: "reason" }, reason) : null);
}

function mediaOf(task) {
  const source = thumbnailOf(task);
  return source ? image(source, task) : placeholder(task);
}

function spoken(task) {
  return [nameOf(task), captionOf(task), task.state, task.reason].filter(Boolean).join(", ");
}

// A picture that opens large.
function tile(task, captioned) {
  const looks = [captioned, thumbnailOf(task), task.missing, spoken(task)].join("\n"), before = spare.get(task.key);
  if (before?.looks === looks) {
    spare.delete(task.key);
    return marked(Object.assign(before, { task, tabIndex: -1 }));
  }
  const element = make("button", {
    className: "tile", type: "button", tabIndex: -1, title: captioned ? "" : spoken(task), "aria-label": spoken(task),
    dataset: { state: task.state },
  }, make("span", { className: "media" }, mediaOf(task)));
  Object.assign(element, { task, looks });
  if (captioned) {
    element.append(
      make("span", { className: "name" }, nameOf(task)),
      make("span", { className: "caption" }, captionOf(task) || " "));
  }
  return marked(element);
}

const spare = new Map();  // tiles that were drawn before, by their task's key: their pictures are there

function marked(element) {
  const { task } = element;
  element.classList.toggle("picked", picks.has(task.key));
  element.classList.toggle("rejected", Boolean(task.rejected));
  return element;
}
