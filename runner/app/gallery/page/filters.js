"use strict";
// The bars above: states, axes, order, search. Each shows how many pictures it would leave.

const MOST_VALUES = 200;

function showStates({ states, picked }) {
  const chips = GALLERY.states.filter((state) => STATES.includes(state) || view.states.has(state)).map((state) => chip(
    SIGNS[state], state, states[state] || 0, view.states.has(state), state,
    () => { view.states.has(state) ? view.states.delete(state) : view.states.add(state); }));
  if (picks.size) chips.push(chip("★", "picked", picked, view.picked, "picked", () => { view.picked = !view.picked; }));
  $("clear").hidden = !isFiltered();
  keepFocus($("states"), () => $("states").replaceChildren(...chips));
}

function chip(sign, words, count, pressed, state, press) {
  const element = make("button", { className: "chip", type: "button", "aria-pressed": String(pressed), dataset: { state, focus: state } },
    make("span", { className: "sign" }, sign), ` ${words} `, make("b", {}, count.toLocaleString("en-US")));
  element.addEventListener("click", () => { press(); update(); });
  return element;
}

function makeMenus() {
  $("filters").replaceChildren(...VARYING.map((axis) => {
    const summary = make("summary", {});
    const search = make("input", { type: "search", placeholder: "Find a value", "aria-label": `Find a value of ${AXES[axis].name}` });
    const list = make("div", { className: "values" });
    const long = AXES[axis].values.length > 12;
    const menu = make("details", { className: "menu", name: "axis" }, summary, make("div", { className: "sheet" }, long ? search : null, list));
    Object.assign(menu, { axis, summary, search, list });
    menu.addEventListener("toggle", () => {
      if (!menu.open) return;
      fillMenu(menu, latest);
      menu.classList.toggle("leftward", menu.getBoundingClientRect().left > innerWidth - 300);
      if (long && matchMedia("(hover: hover)").matches) search.focus();
    });
    search.addEventListener("input", () => fillMenu(menu, latest));
    return menu;
  }));
}

function showMenus(selected) {
  for (const menu of $("filters").children) {
    const wanted = view.axes[menu.axis], [first] = wanted;
    const chosen = wanted.size === 1 ? AXES[menu.axis].values[first] || NONE : `${wanted.size} of ${AXES[menu.axis].values.length}`;
    menu.summary.replaceChildren(AXES[menu.axis].name, wanted.size ? make("b", {}, chosen) : "");
    menu.classList.toggle("active", wanted.size > 0);
    if (menu.open) keepFocus(menu.list, () => fillMenu(menu, selected));
  }
}

function fillMenu(menu, { values }) {
  const axis = AXES[menu.axis], wanted = view.axes[menu.axis], words = menu.search.value.toLowerCase();
  const fitting = [...axis.values.keys()].filter((at) => axis.values[at].toLowerCase().includes(words));
  const rows = fitting.slice(0, MOST_VALUES).map((at) => {
    const box = make("input", { type: "checkbox", checked: wanted.has(at), dataset: { focus: String(at) } });
    box.addEventListener("change", () => { box.checked ? wanted.add(at) : wanted.delete(at); update(); });
    return make("label", { className: values[menu.axis][at] ? "" : "none" }, box,
      make("span", {}, axis.values[at] || NONE), make("i", {}, values[menu.axis][at].toLocaleString("en-US")));
  });
  const rest = fitting.length - rows.length;
  menu.list.replaceChildren(...rows, rest > 0 ? make("p", {}, `and ${rest.toLocaleString("en-US")} more: type to find one`) : "");
}

// What is drawn anew under the keyboard keeps it.
function keepFocus(container, draw) {
  const held = container.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  draw();
  if (held) container.querySelector(`[data-focus="${CSS.escape(held)}"]`)?.focus();
}

function fillSelects() {
  const choices = () => AXES.map((axis, i) => make("option", { value: String(i) }, axis.name)).filter((_, i) => VARYING.includes(i) || VARYING.length < 2);
  for (const side of ["rows", "columns"]) $(side).replaceChildren(...choices());
  $("sort").replaceChildren(...Object.entries(ORDERS).map(([name, order]) => make("option", { value: name }, order.words)));
}

function wireSelects() {
  for (const side of ["rows", "columns"]) {
    $(side).addEventListener("change", () => { view[side] = Number($(side).value); update(); });
  }
  $("swap").addEventListener("click", swap);
  $("sort").addEventListener("change", () => { view.sort = $("sort").value; update(); });
}

function swap() {
  [view.rows, view.columns] = [view.columns, view.rows];
  update();
}

function showControls() {
  const pivot = view.as === "pivot";
  $("as-grid").setAttribute("aria-pressed", String(!pivot));
  $("as-pivot").setAttribute("aria-pressed", String(pivot));
  $("pivot-controls").hidden = !pivot;
  $("sort-control").hidden = pivot;
  for (const side of ["rows", "columns"]) {
    if (![...$(side).options].some((option) => Number(option.value) === view[side])) {
      $(side).append(make("option", { value: String(view[side]) }, AXES[view[side]].name));
    }
    $(side).value = String(view[side]);
  }
  $("sort").value = view.sort;
  $("zoom").value = String(view.tile);
  if ($("search").value !== view.query) $("search").value = view.query;
  const count = view.axes.filter((wanted) => wanted.size).length;
  $("more").textContent = count ? `Filters (${count})` : "Filters";
  $("picks").hidden = !picks.size;
  $("picks").textContent = `★ ${picks.size} picked`;
}

// One cell of the pivot as a grid of its own.
function narrow(rows, row, columns, column) {
  if (row >= 0) view.axes[rows] = new Set([row]);
  if (column >= 0) view.axes[columns] = new Set([column]);
  view.as = "grid";
  update();
  shown.focus(0);
}
