"use strict";
// Everything joined: what is selected is shown, keys and clicks change what is selected.

let latest = null, shown = null, drawing = false;

function update({ keep = false } = {}) {
  latest = select();
  showStates(latest);
  showMenus(latest);
  showControls();
  $("count").textContent = `${latest.passing.length.toLocaleString("en-US")} of ${TASKS.length.toLocaleString("en-US")} · ${costOf(latest.passing)}`;
  $("empty").hidden = latest.passing.length > 0;
  $("empty").textContent = TASKS.length ? "Nothing passes these filters." : "This job has no tasks.";
  if (!viewer.open) history.replaceState(null, "", toAddress());
  const find = keep ? remember() : () => stage.scrollTo(0, 0);
  canvas.replaceChildren();
  shown = view.as === "pivot" ? new Pivot(latest.passing) : new Grid(latest.passing);
  shown.layout();
  find();
  shown.draw();
  spare.clear();
}

// What was seen stays where it was, even if others come before it; so do the cursor and the keyboard.
function remember() {
  const { cursor } = shown, first = shown.first(), pointed = shown.taskAt(cursor);
  const { scrollTop: top, scrollLeft: left } = stage, before = first && shown.placeOf(shown.numbers.get(first.key));
  const focused = canvas.contains(document.activeElement) && document.activeElement.task;
  canvas.querySelectorAll(".tile").forEach((one) => spare.set(one.task.key, one));
  return () => {
    const number = first && shown.numbers.get(first.key);
    const [x, y] = number === undefined ? [0, 0] : shown.placeOf(number).map((now, i) => now - before[i]);
    stage.scrollTo(left && left + x, top && top + y);
    shown.point(shown.numbers.get(pointed?.key) ?? cursor);
    shown.draw();
    if (focused) shown.elementOf(focused)?.focus({ preventScroll: true });
  };
}

function showHead() {
  const { job, sandbox, spend, cap, halted, reason, running, made_at } = GALLERY;
  document.title = `${job}: gallery`;
  $("job").textContent = job;
  const spent = spend.usd === null ? "spend unknown" : `$${spend.usd} spent`;
  $("stopped").textContent = $("stopped").title = halted ? `stopped: ${reason || halted}` : "";
  $("facts").textContent = [
    `${TASKS.filter((task) => task.state === "succeeded").length.toLocaleString("en-US")} of ${TASKS.filter((task) => task.state !== "orphaned").length.toLocaleString("en-US")} pictures`,
    cap.usd === null ? spent : `${spent} of $${cap.usd}`, sandbox ? "sandbox" : "", running ? "under way" : "",
  ].filter(Boolean).join(" · ");
  $("made").textContent = `as of ${new Date(made_at * 1_000).toLocaleString()}`;
}

// --- small windows ---

function say(...children) {
  const close = make("button", { className: "quiet", type: "button", "aria-label": "Close" }, "✕");
  close.addEventListener("click", () => $("note").close());
  $("note").replaceChildren(close, ...children);
  $("note").showModal();
}

const KEYS = [
  ["arrows, Page, Home, End", "move"], ["Enter", "large view"], ["← →", "in it: the one before, the next"], ["Esc", "close; clear the filters"],
  ["p", "pick"], ["z", "actual pixels"], ["i", "details"], ["/", "search"], ["g  v", "grid, pivot"], ["x", "swap rows and columns"],
  ["+  −", "larger, smaller tiles"], ["t", "light, dark"], ["?", "this"],
];

function showKeys() {
  say(make("h2", {}, "Keys"), make("dl", {}, ...KEYS.flatMap(([key, does]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, does)])));
}

function showPicks() {
  const text = `${TASKS.filter((task) => picks.has(task.key)).map((task) => task.key).join("\n")}\n`;
  const save = make("a", { className: "button", download: "picks.txt", href: URL.createObjectURL(new Blob([text])) }, "Save picks.txt");
  const clear = make("button", { type: "button" }, "Forget them");
  clear.addEventListener("click", () => {
    TASKS.forEach((task) => pick(task, false));
    view.picked = false;
    $("note").close();
    update({ keep: true });
  });
  say(make("h2", {}, `${picks.size} picked`),
    make("p", {}, "Their keys, one a line, are what promote takes: it makes a follow-up job of them, say in 4K."),
    make("pre", {}, `bulkrender promote ${quoted(GALLERY.job)} --pick picks.txt --set size=4K${GALLERY.sandbox ? " --sandbox" : ""}`),
    make("p", { className: "row" }, save, copier("Copy the keys", text), clear));
}

function quoted(word) {
  return /^[\w.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// --- light and dark ---

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `◐ ${theme}`;
  $("theme").title = `Light and dark: ${theme} (t)`;
  $("theme").setAttribute("aria-label", `Light and dark: ${theme}`);
}

function stored(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

function store(name, value) {
  try { localStorage.setItem(name, value); } catch { /* then for this visit */ }
}

function turnTheme() {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  store("bulkrender theme", next);
  setTheme(next);
}

// --- wiring ---

function setAs(as) {
  view.as = as;
  update();
}

function setTile(size) {
  view.tile = Math.min(400, Math.max(80, size));
  store("bulkrender tile", String(view.tile));
  $("zoom").value = String(view.tile);
  shown.layout();
}

function open(element) {
  const order = shown.order;
  if (shown instanceof Grid) shown.point(element.number);
  openViewer(order, order.indexOf(element.task));
}

function pickFocused() {
  const { task } = document.activeElement;
  if (!task) return;
  pick(task);
  view.picked ? update({ keep: true }) : (shown.refresh(), latest = select(), showStates(latest), showControls());
}

const STAGE_KEYS = {
  "/": () => $("search").focus(), g: () => setAs("grid"), v: () => setAs("pivot"), t: turnTheme, "?": showKeys, p: pickFocused,
  x: () => { if (view.as === "pivot") swap(); },
  "+": () => setTile(view.tile + 40), "=": () => setTile(view.tile + 40), "-": () => setTile(view.tile - 40),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("note").open) return;
  if (viewer.open) {
    if (viewerKey(event.key)) event.preventDefault();
    return;
  }
  const target = event.target, typing = target.matches("input[type=search], select");
  if (event.key === "Escape") return escape(typing);
  if (typing || (target.matches("input") && event.key.startsWith("Arrow"))) return;
  const moves = !target.closest("header") && shown.move(event.key);
  if (moves || STAGE_KEYS[event.key]) {
    event.preventDefault();
    if (!moves) STAGE_KEYS[event.key]();
  }
}

function escape(typing) {
  const menu = $("filters").querySelector("details[open]");
  if (menu) {
    menu.open = false;
    return menu.summary.focus();
  }
  if (isFiltered()) {
    unfilter();
    update();
  }
  if (typing) document.activeElement.blur();
}

function wire() {
  stage.addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; shown.draw(); });
  }, { passive: true });
  canvas.addEventListener("click", (event) => {
    const element = event.target.closest(".tile");
    if (element) open(element);
  });
  new ResizeObserver(() => shown.layout()).observe(stage);
  $("search").addEventListener("input", () => { view.query = $("search").value; update(); });
  $("as-grid").addEventListener("click", () => setAs("grid"));
  $("as-pivot").addEventListener("click", () => setAs("pivot"));
  $("zoom").addEventListener("input", () => setTile(Number($("zoom").value)));
  $("clear").addEventListener("click", () => { unfilter(); update(); });
  $("theme").addEventListener("click", turnTheme);
  $("help").addEventListener("click", showKeys);
  $("picks").addEventListener("click", showPicks);
  $("more").addEventListener("click", () => $("more").setAttribute("aria-expanded", String($("head").classList.toggle("wide"))));
  $("note").addEventListener("click", (event) => { if (event.target === $("note")) $("note").close(); });
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    for (const menu of $("filters").querySelectorAll("details[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("popstate", () => go(location.hash));
}

function go(hash) {
  const key = fromAddress(hash);
  const inOrder = viewer.open && !key;
  if (inOrder) hideViewer();
  else if (!viewer.open) update();
  const number = key ? shown.order.findIndex((task) => task.key === key) : -1;
  if (number >= 0 && !viewer.open) openViewer(shown.order, number, { push: false });
}

setTheme(THEMES.includes(stored("bulkrender theme")) ? stored("bulkrender theme") : "auto");
take();
view.tile = Math.min(400, Math.max(80, Number(stored("bulkrender tile")) || (innerWidth < 600 ? 150 : 200)));
makeMenus();
fillSelects();
wireSelects();
wireViewer();
showHead();
const asked = location.hash;
fromAddress(asked);
update();
wire();
go(asked);
