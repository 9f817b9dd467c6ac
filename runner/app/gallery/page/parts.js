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
  const element = make("img", { alt: "", decoding: "async", draggable: false, src: source });
  element.addEventListener("error", () => element.replaceWith(placeholder(task, "cannot be shown")), { once: true });
  return element;
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
  const element = make("button", {
    className: "tile", type: "button", tabIndex: -1, title: captioned ? "" : spoken(task), "aria-label": spoken(task),
    dataset: { state: task.state },
  }, make("span", { className: "media" }, mediaOf(task)));
  element.task = task;
  if (captioned) {
    element.append(
      make("span", { className: "name" }, nameOf(task)),
      make("span", { className: "caption" }, captionOf(task) || " "));
  }
  marked(element);
  return element;
}

function marked(element) {
  const { task } = element;
  element.classList.toggle("picked", picks.has(task.key));
  element.classList.toggle("rejected", Boolean(task.rejected));
}

// Everything as high as wide, unless all pictures have one ratio.
const RATIO = (() => {
  const sized = TASKS.filter((task) => task.width && task.height);
  const ratios = sized.map((task) => task.width / task.height);
  const [least, most] = ratios.reduce(([a, b], r) => [Math.min(a, r), Math.max(b, r)], [Infinity, 0]);
  return ratios.length && most / least < 1.1 ? Math.min(2.4, Math.max(0.45, most)) : 1;
})();
