"use strict";
// The pivot: one axis down, one across, all other pictures of a cell in it. Only cells near the window exist.

const MOST_IN_A_CELL = 9;
const HEAD = 40;
const CROWDED = 0.6;  // of the size of a tile, where a cell has several

class Pivot {
  constructor(order) {
    const place = (axis) => [...new Set(order.map((task) => task.at[axis]))].sort((a, b) => a - b);
    this.rows = place(view.rows);
    this.columns = place(view.columns);
    const row = new Map(this.rows.map((at, i) => [at, i])), column = new Map(this.columns.map((at, i) => [at, i]));
    this.contents = new Map();
    for (const task of order) {
      const number = row.get(task.at[view.rows]) * this.columns.length + column.get(task.at[view.columns]);
      this.contents.has(number) ? this.contents.get(number).push(task) : this.contents.set(number, [task]);
    }
    const most = Math.min(MOST_IN_A_CELL, Math.max(1, ...[...this.contents.values()].map((tasks) => tasks.length)));
    this.across = Math.ceil(Math.sqrt(most));
    this.down = Math.ceil(most / this.across);
    this.order = [...this.contents.keys()].sort((a, b) => a - b).flatMap((number) => this.contents.get(number));
    this.numbers = new Map([...this.contents].flatMap(([number, tasks]) => tasks.map((task) => [task.key, number])));
    this.cells = new Map();
    this.heads = new Map();
    this.cursor = 0;
    canvas.className = "pivot";
    this.top = make("div", { className: "top" });
    this.side = make("div", { className: "side" });
    this.corner = make("div", { className: "corner" },
      make("span", {}, `${AXES[view.rows].name} ↓`), make("span", {}, `${AXES[view.columns].name} →`));
    canvas.append(this.corner, this.top, this.side);
  }

  layout() {
    this.label = stage.clientWidth < 600 ? 92 : 168;
    const small = this.across > 1 ? Math.max(48, Math.round(view.tile * CROWDED)) : view.tile;
    this.width = this.across * small;
    this.height = Math.round(this.down * small / RATIO);
    const wide = this.label + this.columns.length * (this.width + GAP) + PAD;
    const high = HEAD + this.rows.length * (this.height + GAP) + PAD;
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    this.top.style.cssText = `left:${this.label}px;width:${wide - this.label}px;height:${HEAD}px`;
    this.side.style.cssText = `top:${HEAD}px;width:${this.label}px;height:${high - HEAD}px`;
    this.corner.style.cssText = `width:${this.label}px;height:${HEAD}px`;
    const focused = canvas.contains(document.activeElement) && document.activeElement.task;
    this.clear();
    this.draw();
    if (focused) this.elementOf(focused)?.focus({ preventScroll: true });
  }

  clear() {
    for (const element of [...this.cells.values(), ...this.heads.values()]) element.remove();
    this.cells.clear();
    this.heads.clear();
  }

  span(start, length, step, count) {
    const beyond = length / 3;
    return [Math.max(0, Math.floor((start - beyond) / step)), Math.min(count, Math.ceil((start + length + beyond) / step))];
  }

  draw() {
    const [top, bottom] = this.span(stage.scrollTop - HEAD, stage.clientHeight, this.height + GAP, this.rows.length);
    const [left, right] = this.span(stage.scrollLeft - this.label, stage.clientWidth, this.width + GAP, this.columns.length);
    const near = (row, column) => row >= top && row < bottom && column >= left && column < right;
    for (const [number, element] of this.cells) {
      const [row, column] = this.split(number);
      if (!near(row, column) && !element.contains(document.activeElement)) {
        element.remove();
        this.cells.delete(number);
      }
    }
    const wanted = new Set();
    for (let row = top; row < bottom; row++) wanted.add(`r${row}`);
    for (let column = left; column < right; column++) wanted.add(`c${column}`);
    for (const [name, element] of this.heads) {
      if (!wanted.has(name)) {
        element.remove();
        this.heads.delete(name);
      }
    }
    for (const name of wanted) if (!this.heads.has(name)) this.makeHead(name);
    const fresh = document.createDocumentFragment();
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const number = row * this.columns.length + column;
        if (!this.cells.has(number)) fresh.append(this.makeCell(number));
      }
    }
    canvas.append(fresh);
  }

  placeOf(number) {
    const [row, column] = this.split(number);
    return [this.label + column * (this.width + GAP), HEAD + row * (this.height + GAP)];
  }

  first() {
    const top = Math.floor(stage.scrollTop / (this.height + GAP)), left = Math.floor(stage.scrollLeft / (this.width + GAP));
    return this.order.find((task) => {
      const [row, column] = this.split(this.numbers.get(task.key));
      return row >= top && column >= left;
    });
  }

  taskAt(number) { return this.contents.get(number)?.[0]; }
  elementOf(task) { return [...(this.cells.get(this.numbers.get(task.key))?.children ?? [])].find((one) => one.task?.key === task.key); }

  split(number) { return [Math.floor(number / this.columns.length), number % this.columns.length]; }

  makeHead(name) {
    const down = name[0] === "r", place = Number(name.slice(1));
    const axis = down ? view.rows : view.columns, at = (down ? this.rows : this.columns)[place];
    const words = at < 0 ? NONE : AXES[axis].values[at] || NONE;
    const element = make("div", { className: "label", title: words }, make("span", {}, words));
    element.style.cssText = down
      ? `transform:translateY(${place * (this.height + GAP)}px);height:${this.height}px`
      : `transform:translateX(${place * (this.width + GAP)}px);width:${this.width}px`;
    (down ? this.side : this.top).append(element);
    this.heads.set(name, element);
  }

  makeCell(number) {
    const [row, column] = this.split(number), tasks = this.contents.get(number) || [];
    const shown = tasks.length > MOST_IN_A_CELL ? tasks.slice(0, MOST_IN_A_CELL - 1) : tasks;
    const element = make("div", { className: "cell" }, ...shown.map((task) => tile(task, false)));
    if (shown.length < tasks.length) {
      const more = make("button", { className: "more", type: "button", tabIndex: -1, title: "Show all of this cell" }, `+${(tasks.length - shown.length).toLocaleString("en-US")}`);
      more.addEventListener("click", () => narrow(view.rows, this.rows[row], view.columns, this.columns[column]));
      element.append(more);
    }
    element.style.cssText = `transform:translate(${this.placeOf(number).map((pixels) => `${pixels}px`)});` +
      `width:${this.width}px;height:${this.height}px;grid-template:repeat(${this.down},1fr)/repeat(${this.across},1fr)`;
    if (number === this.cursor && element.firstElementChild) element.firstElementChild.tabIndex = 0;
    this.cells.set(number, element);
    return element;
  }

  move(key) {
    const [row, column] = this.split(this.cursor);
    const page = Math.max(1, Math.floor(stage.clientHeight / (this.height + GAP)));
    const steps = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      PageUp: [-page, 0], PageDown: [page, 0], Home: [-Infinity, -Infinity], End: [Infinity, Infinity],
    };
    if (!(key in steps) || !this.order.length) return false;
    const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));
    const [down, across] = steps[key];
    this.focus(clamp(row + down, this.rows.length) * this.columns.length + clamp(column + across, this.columns.length));
    return true;
  }

  point(number) {
    canvas.querySelectorAll('.cell [tabindex="0"]').forEach((one) => { one.tabIndex = -1; });
    const first = this.cells.get(number)?.firstElementChild;
    if (first) first.tabIndex = 0;
    this.cursor = number;
  }

  focus(number, task = null) {
    const [row, column] = this.split(number);
    this.point(number);
    const x = column * (this.width + GAP), y = row * (this.height + GAP);
    const wide = stage.clientWidth - this.label, high = stage.clientHeight - HEAD;
    if (x < stage.scrollLeft) stage.scrollLeft = x;
    if (x + this.width > stage.scrollLeft + wide) stage.scrollLeft = x + this.width + PAD - wide;
    if (y < stage.scrollTop) stage.scrollTop = y;
    if (y + this.height > stage.scrollTop + high) stage.scrollTop = y + this.height + PAD - high;
    this.draw();
    const target = (task && this.elementOf(task)) || this.cells.get(number)?.firstElementChild;
    if (target) target.tabIndex = 0;
    (target || stage).focus({ preventScroll: true });
  }

  focusTask(task) {
    const number = this.numbers.get(task.key);
    if (number !== undefined) this.focus(number, task);
  }

  refresh() { canvas.querySelectorAll(".tile").forEach(marked); }
}
