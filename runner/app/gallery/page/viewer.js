"use strict";
// One picture, large, with all that is known of it.

const viewer = $("viewer");
const LARGEST_FIT = 2;
const MOST_SIBLINGS = 24;

const large = { order: [], number: 0, pushed: false, actual: false };

function taskInView() { return large.order[large.number]; }

function openViewer(order, number, { push = true } = {}) {
  if (!order.length) return;
  Object.assign(large, { order, number, pushed: push, actual: false });
  if (push) history.pushState(null, "", toAddress(taskInView().key));
  if (!viewer.open) viewer.showModal();
  showLarge();
}

function closeViewer() {
  if (!viewer.open) return;
  if (large.pushed) history.back();
  else {
    history.replaceState(null, "", toAddress());
    hideViewer();
  }
}

function hideViewer() {
  const task = taskInView();
  viewer.close();
  $("picture").replaceChildren();
  shown.focusTask(task);
}

function stepTo(number) {
  if (number < 0 || number >= large.order.length) return;
  large.number = number;
  large.actual = false;
  history.replaceState(null, "", toAddress(taskInView().key));
  showLarge();
}

function showLarge() {
  const task = taskInView();
  $("where").textContent = `${(large.number + 1).toLocaleString("en-US")} of ${large.order.length.toLocaleString("en-US")}`;
  $("back").disabled = large.number === 0;
  $("forth").disabled = large.number === large.order.length - 1;
  showPick();
  showPicture(task);
  $("details").replaceChildren(...details(task));
  $("details").scrollTop = 0;
  preload(large.order[large.number + 1]);
}

// The same order, as it is now; what is looked at is drawn anew only if something of it has changed.
function renewViewer() {
  if (!viewer.open) return;
  const now = new Map(TASKS.map((task) => [task.key, task])), before = taskInView(), { length } = large.order;
  large.order = large.order.map((task) => now.get(task.key)).filter(Boolean);
  large.number = Math.max(0, large.order.indexOf(now.get(before.key)));
  if (!large.order.length) closeViewer();
  else if (large.order.length < length || JSON.stringify(before) !== JSON.stringify(taskInView())) showLarge();
}

function showPick() {
  const task = taskInView(), picked = picks.has(task.key);
  $("pick").textContent = picked ? "★" : "☆";
  $("pick").setAttribute("aria-label", picked ? "Picked" : "Pick");
  $("pick").setAttribute("aria-pressed", String(picked));
  $("pick").disabled = !task.path || Boolean(task.rejected);
}

// The thumbnail at once, the picture itself over it as soon as it is there.
function showPicture(task) {
  const area = $("picture");
  area.scrollTo(0, 0);
  $("actual").disabled = !task.path || Boolean(task.missing);
  const source = thumbnailOf(task);
  if (!source) return area.replaceChildren(placeholder(task));
  area.replaceChildren();
  const layers = [image(source, task)];
  layers[0].className = "small";
  if (task.path && !task.missing) {
    const whole = make("img", { className: "whole", alt: spoken(task), draggable: false, src: address(task.path) });
    whole.addEventListener("load", fit, { once: true });
    whole.addEventListener("error", () => whole.remove(), { once: true });
    layers.push(whole);
  }
  layers[0].addEventListener("load", fit, { once: true });
  area.append(...layers);
  fit();
}

function fit() {
  const task = taskInView(), area = $("picture"), whole = area.querySelector(".whole") || area.querySelector("img");
  if (!whole) return;
  const width = task.width || whole.naturalWidth || 1, height = task.height || whole.naturalHeight || 1;
  const scale = large.actual ? 1 / devicePixelRatio : Math.min(area.clientWidth / width, area.clientHeight / height, LARGEST_FIT);
  for (const layer of area.querySelectorAll("img")) {
    layer.style.width = `${width * scale}px`;
    layer.style.height = `${height * scale}px`;
  }
  area.classList.toggle("actual", large.actual);
  $("actual").setAttribute("aria-pressed", String(large.actual));
}

function toggleActual(x = 0.5, y = 0.5) {
  large.actual = !large.actual;
  fit();
  const area = $("picture");
  area.scrollTo((area.scrollWidth - area.clientWidth) * x, (area.scrollHeight - area.clientHeight) * y);
}

function preload(task) {
  if (task?.path && !task.missing) new Image().src = address(task.path);
}

// --- what is known of it ---

function details(task) {
  return [
    make("h2", {}, nameOf(task)),
    make("p", { className: "verdict", dataset: { state: task.state } }, verdict(task)),
    task.error ? make("p", { className: "error" }, task.error) : null,
    make("h3", {}, "Prompt", copier("Copy the prompt", promptOf(task))),
    make("p", { className: "prompt" }, promptOf(task)),
    ...(task.text ? [make("h3", {}, "What the model said"), make("p", { className: "prompt" }, task.text)] : []),
    make("h3", {}, "Settings"),
    facts([
      ...AXES.flatMap((axis, i) => (axis.name === "prompt" ? [] : [[axis.name, valueOf(task, i)]])),
      ...settings(settingsOf(task)),
      ["references", (task.references || []).join("\n")],
    ]),
    make("h3", {}, "Cost"),
    facts([
      ["spent", dollars(task.cost_nanos)],
      ["held as unknown", task.unknown_nanos === 0 ? "" : dollars(task.unknown_nanos)],
      ["image tokens", task.image_tokens?.toLocaleString("en-US")],
    ]),
    attempts(task),
    make("h3", {}, "File"),
    facts([
      ["pixels", task.width ? `${task.width} × ${task.height}` : ""],
      ["size", task.bytes ? `${(task.bytes / 1e6).toFixed(2)} MB, ${task.mime}` : ""],
      ["path", task.path], ["sha256", task.sha256], ["key", task.key], ["draft", task.draft],
      ["response id", task.response_id], ["model version", task.model_version], ["finish reason", task.finish_reason],
    ]),
    task.path && !task.missing
      ? make("p", {}, make("a", { href: address(task.path), target: "_blank", rel: "noopener" }, "Open the original"))
      : null,
    ...siblings(task),
  ].filter(Boolean);
}

function verdict(task) {
  if (task.missing) return `${task.state}; the picture is not at its path any more`;
  if (task.rejected) return `${task.state}: ${task.reason}; the picture that came is shown`;
  return task.reason ? `${task.state}: ${task.reason}` : task.state;
}

// What else of the same prompt passes the filters.
function siblings(task) {
  const numbers = [...large.order.keys()].filter((number) => large.order[number].prompt === task.prompt && number !== large.number);
  const tiles = numbers.slice(0, MOST_SIBLINGS).map((number) => {
    const element = tile(large.order[number], false);
    element.tabIndex = 0;
    element.addEventListener("click", () => stepTo(number));
    return element;
  });
  return tiles.length ? [make("h3", {}, "Same prompt"), make("div", { className: "siblings" }, ...tiles)] : [];
}

function settings({ modalities, thinking, system, safety }) {
  return [
    ["modalities", modalities.join(", ")], ["thinking", thinking], ["system", system],
    ...safety.map(([category, threshold]) => [category.toLowerCase(), threshold]),
  ];
}

function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return make("dl", {}, ...told.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function attempts(task) {
  const rows = attemptsOf(task).map((one) => make("tr", {},
    make("td", {}, `#${one.number}`),
    make("td", {}, one.reason || one.outcome || one.state),
    make("td", {}, one.latency_s === undefined ? "" : `${one.latency_s.toFixed(1)} s`),
    make("td", {}, one.state === "settled" ? dollars(one.cost_nanos) : one.state === "released" ? "free" : `${dollars(one.cost_nanos)} held`)));
  return rows.length ? make("table", {}, make("caption", {}, rows.length === 1 ? "1 attempt" : `${rows.length} attempts`), ...rows) : "";
}

function copier(words, text) {
  const button = make("button", { className: "quiet copy", type: "button", title: words, "aria-label": words }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return button;
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch { button.textContent = "Refused"; }
  setTimeout(() => { button.textContent = before; }, 1_000);
}

// --- by hand ---

let touched = null;

function wireViewer() {
  viewer.addEventListener("cancel", (event) => { event.preventDefault(); closeViewer(); });
  $("close").addEventListener("click", closeViewer);
  $("back").addEventListener("click", () => stepTo(large.number - 1));
  $("forth").addEventListener("click", () => stepTo(large.number + 1));
  $("pick").addEventListener("click", () => { pick(taskInView()); showPick(); update(); });
  $("actual").addEventListener("click", () => toggleActual());
  $("side").addEventListener("click", toggleSide);
  $("picture").addEventListener("click", (event) => {
    if (event.target.tagName !== "IMG") return;
    const box = event.target.getBoundingClientRect();
    toggleActual((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  $("picture").addEventListener("touchstart", (event) => {
    touched = event.touches.length === 1 && !large.actual ? event.touches[0] : null;
  }, { passive: true });
  $("picture").addEventListener("touchend", (event) => {
    if (!touched) return;
    const x = event.changedTouches[0].clientX - touched.clientX, y = event.changedTouches[0].clientY - touched.clientY;
    if (Math.abs(x) > 50 && Math.abs(x) > 2 * Math.abs(y)) stepTo(large.number + (x < 0 ? 1 : -1));
  }, { passive: true });
  addEventListener("resize", () => { if (viewer.open) fit(); });
}

function toggleSide() {
  viewer.classList.toggle("alone");
  fit();
}

function viewerKey(key) {
  const does = {
    ArrowLeft: () => stepTo(large.number - 1), ArrowRight: () => stepTo(large.number + 1),
    Home: () => stepTo(0), End: () => stepTo(large.order.length - 1),
    p: () => $("pick").click(), z: () => $("actual").click(), i: toggleSide,
  };
  if (!does[key]) return false;
  does[key]();
  return true;
}
