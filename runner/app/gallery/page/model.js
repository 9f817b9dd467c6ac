"use strict";
// What is shown: the tasks, which of them pass the filters, how many would under others, and the address that says so.

let TASKS, AXES, STATES, VARYING, RATIO;
const NANOS = 1_000_000_000;
const NONE = "(none)";
const PICK_STORE = `bulkrender picks ${GALLERY.sandbox ? "sandbox" : "live"} ${GALLERY.job}`;

const ORDERS = {
  manifest: { words: "as in the manifest", value: null },
  dearest: { words: "dearest first", value: (task) => task.cost_nanos ?? Infinity },
  slowest: { words: "slowest first", value: (task) => Math.max(...attemptsOf(task).map((one) => one.latency_s ?? -1), -1) },
  newest: { words: "newest first", value: (task) => Math.max(...attemptsOf(task).map((one) => one.ended_at ?? -1), -1) },
  tries: { words: "most attempts first", value: (task) => attemptsOf(task).length },
};

const view = {
  as: "grid", rows: 0, columns: 0, sort: "manifest", query: "", tile: 200,
  states: new Set(), picked: false,
  axes: [],  // the values wanted of each axis, by their place; empty: all
};

// What data.js says now: it may be loaded again.
function take() {
  TASKS = GALLERY.tasks;
  AXES = GALLERY.axes;
  STATES = GALLERY.states.filter((state) => TASKS.some((task) => task.state === state));
  VARYING = AXES.map((_, i) => i).filter((i) => AXES[i].values.length > 1);
  RATIO = commonRatio();
  view.axes = AXES.map(() => new Set());
  haystacks.length = 0;
  picks = new Set(readPicks());
}

// Everything as high as wide, unless all pictures have one ratio.
function commonRatio() {
  const ratios = TASKS.filter((task) => task.width && task.height).map((task) => task.width / task.height);
  const [least, most] = ratios.reduce(([a, b], r) => [Math.min(a, r), Math.max(b, r)], [Infinity, 0]);
  return ratios.length && most / least < 1.1 ? Math.min(2.4, Math.max(0.45, most)) : 1;
}

function attemptsOf(task) { return task.attempts || []; }
function promptOf(task) { return GALLERY.prompts[task.prompt]; }
function settingsOf(task) { return GALLERY.settings[task.settings]; }
function axisNamed(name) { return AXES.findIndex((axis) => axis.name === name); }

function valueOf(task, axis) {
  const at = task.at[axis];
  return at < 0 ? NONE : AXES[axis].values[at] || NONE;
}

function captionOf(task) {
  const own = VARYING.filter((axis) => AXES[axis].name !== "prompt");
  return own.map((axis) => valueOf(task, axis)).join(" · ");
}

function nameOf(task) { return valueOf(task, axisNamed("prompt")); }

function address(path) {
  return `${GALLERY.root}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

// --- money: integers of nano-dollars, shown exactly; unknown is never zero ---

function dollars(nanos) {
  if (nanos === null || nanos === undefined) return "unknown";
  const rest = String(nanos % NANOS).padStart(9, "0").replace(/0+$/, "").padEnd(2, "0");
  return `$${Math.floor(nanos / NANOS).toLocaleString("en-US")}.${rest}`;
}

function costOf(tasks) {
  let sum = 0, unknown = 0;
  for (const task of tasks) task.cost_nanos === null ? unknown++ : (sum += task.cost_nanos);
  return dollars(sum) + (unknown ? ` and ${unknown} of unknown cost` : "");
}

// --- picks: kept by the browser, where it does so for files ---

let picks;

function readPicks() {
  try {
    const known = new Set(TASKS.map((task) => task.key));
    return JSON.parse(localStorage.getItem(PICK_STORE) || "[]").filter((key) => known.has(key));
  } catch { return []; }
}

function pick(task, wanted = !picks.has(task.key)) {
  if (!task.path || task.rejected) return;
  wanted ? picks.add(task.key) : picks.delete(task.key);
  try { localStorage.setItem(PICK_STORE, JSON.stringify([...picks])); } catch { /* then for this visit */ }
}

// --- filters ---

const haystacks = [];

function haystack(i) {
  const task = TASKS[i];
  return haystacks[i] ??= [nameOf(task), promptOf(task), task.text, task.error, task.reason, task.key, task.path, task.response_id]
    .filter(Boolean).join("\n").toLowerCase();
}

// The tasks that pass, and for each state and each value of an axis how many would if it were not filtered by itself.
function select() {
  const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
  const passing = [], states = {}, values = AXES.map((axis) => new Uint32Array(axis.values.length));
  let picked = 0;
  TASKS.forEach((task, i) => {
    if (words.length && !words.every((word) => haystack(i).includes(word))) return;
    const fails = AXES.map((_, axis) => axis).filter((axis) => view.axes[axis].size && !view.axes[axis].has(task.at[axis]));
    const state = !view.states.size || view.states.has(task.state);
    const chosen = !view.picked || picks.has(task.key);
    if (fails.length + !state + !chosen > 1) return;
    if (!fails.length && chosen) states[task.state] = (states[task.state] || 0) + 1;
    if (!fails.length && state && picks.has(task.key)) picked++;
    if (!state || !chosen) return;
    const counted = fails.length ? fails : AXES.keys();
    for (const axis of counted) if (task.at[axis] >= 0) values[axis][task.at[axis]]++;
    if (!fails.length) passing.push(task);
  });
  return { passing: sorted(passing), states, values, picked };
}

function sorted(tasks) {
  const value = ORDERS[view.sort].value;
  if (!value) return tasks;
  const worth = new Map(tasks.map((task) => [task, value(task)]));
  return tasks.sort((a, b) => (worth.get(b) === worth.get(a) ? 0 : worth.get(b) > worth.get(a) ? 1 : -1));
}

function isFiltered() {
  return Boolean(view.query || view.picked || view.states.size || view.axes.some((wanted) => wanted.size));
}

function unfilter() {
  Object.assign(view, { query: "", picked: false });
  view.states.clear();
  view.axes.forEach((wanted) => wanted.clear());
}

// --- the address: what is seen can be kept as a bookmark and sent with the folder ---

function toAddress(open) {
  const words = new URLSearchParams();
  if (view.as === "pivot") {
    words.set("rows", AXES[view.rows].name);
    words.set("columns", AXES[view.columns].name);
  }
  if (view.sort !== "manifest") words.set("sort", view.sort);
  if (view.query) words.set("q", view.query);
  if (view.picked) words.set("picked", "");
  for (const state of view.states) words.append("state", state);
  view.axes.forEach((wanted, axis) => wanted.forEach((at) => words.append(`is.${AXES[axis].name}`, AXES[axis].values[at])));
  if (open) words.set("open", open);
  return `#${words}`;
}

function fromAddress(hash) {
  const words = new URLSearchParams(hash.slice(1));
  unfilter();
  view.as = words.has("rows") ? "pivot" : "grid";
  const [rows, columns] = likelyPivot();
  view.rows = known(axisNamed(words.get("rows")), rows);
  view.columns = known(axisNamed(words.get("columns")), columns);
  view.sort = Object.hasOwn(ORDERS, words.get("sort") ?? "") ? words.get("sort") : "manifest";
  view.query = words.get("q") || "";
  view.picked = words.has("picked");
  for (const state of words.getAll("state")) if (GALLERY.states.includes(state)) view.states.add(state);
  AXES.forEach((axis, i) => {
    for (const value of words.getAll(`is.${axis.name}`)) {
      const at = axis.values.indexOf(value);
      if (at >= 0) view.axes[i].add(at);
    }
  });
  return words.get("open");
}

function known(axis, otherwise) { return axis < 0 ? otherwise : axis; }

// Rows: prompts, if there are several. Columns: what the user invented before size, aspect and the like.
function likelyPivot() {
  const prompt = axisNamed("prompt");
  const own = VARYING.filter((axis) => axis !== prompt);
  const invented = own.filter((axis) => !["size", "aspect", "model", "variant"].includes(AXES[axis].name));
  const across = [...invented, ...own];
  const columns = across[0] ?? axisNamed("size");
  const rows = VARYING.includes(prompt) ? prompt : across.find((axis) => axis !== columns) ?? prompt;
  return [rows, columns];
}
