"use strict";
// The grid: of thousands of tiles only those near the window exist.

const stage = $("stage"), canvas = $("canvas");
const GAP = 12, PAD = 16, CAPTION = 42;

class Grid {
  constructor(order) {
    this.order = order;
    this.numbers = new Map(order.map((task, number) => [task.key, number]));
    this.tiles = new Map();
    this.cursor = 0;
    canvas.className = "grid";
  }

  layout() {
    const width = stage.clientWidth - 2 * PAD;
    this.columns = Math.max(1, Math.floor((width + GAP) / (Math.min(view.tile, width) + GAP)));
    this.width = Math.floor((width - (this.columns - 1) * GAP) / this.columns);
    this.height = Math.round(this.width / RATIO) + CAPTION;
    const rows = Math.ceil(this.order.length / this.columns);
    canvas.style.width = "";
    canvas.style.height = `${2 * PAD + rows * (this.height + GAP) - GAP}px`;
    for (const [number, element] of this.tiles) this.place(number, element);
    this.draw();
  }

  placeOf(number) {
    const row = Math.floor(number / this.columns), column = number % this.columns;
    return [PAD + column * (this.width + GAP), PAD + row * (this.height + GAP)];
  }

  // What is first in sight, and what a number stands for.
  first() { return this.order[Math.max(0, Math.floor((stage.scrollTop - PAD) / (this.height + GAP))) * this.columns]; }
  taskAt(number) { return this.order[number]; }
  elementOf(task) { return this.tiles.get(this.numbers.get(task.key)); }

  place(number, element) {
    const [x, y] = this.placeOf(number);
    element.style.cssText = `transform:translate(${x}px,${y}px);width:${this.width}px;height:${this.height}px`;
  }

  // Half a window more above and below: what is scrolled into is there already.
  draw() {
    const beyond = stage.clientHeight / 2, step = this.height + GAP;
    const first = Math.max(0, Math.floor((stage.scrollTop - beyond - PAD) / step)) * this.columns;
    const last = Math.ceil((stage.scrollTop + stage.clientHeight + beyond) / step) * this.columns;
    for (const [number, element] of this.tiles) {
      const held = number === this.cursor && element === document.activeElement;
      if ((number < first || number >= last) && !held) {
        element.remove();
        this.tiles.delete(number);
      }
    }
    const fresh = document.createDocumentFragment();
    for (let number = first; number < Math.min(last, this.order.length); number++) {
      if (!this.tiles.has(number)) fresh.append(this.make(number));
    }
    canvas.append(fresh);
  }

  make(number) {
    const element = tile(this.order[number], true);
    element.number = number;
    element.tabIndex = number === this.cursor ? 0 : -1;
    this.tiles.set(number, element);
    this.place(number, element);
    return element;
  }

  move(key) {
    const page = Math.max(1, Math.floor(stage.clientHeight / (this.height + GAP)));
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      PageUp: -this.columns * page, PageDown: this.columns * page, Home: -Infinity, End: Infinity,
    };
    if (!(key in steps) || !this.order.length) return false;
    this.focus(Math.min(this.order.length - 1, Math.max(0, this.cursor + steps[key])));
    return true;
  }

  focus(number) {
    this.point(number);
    const top = PAD + Math.floor(number / this.columns) * (this.height + GAP);
    if (top < stage.scrollTop + PAD) stage.scrollTop = top - PAD;
    if (top + this.height > stage.scrollTop + stage.clientHeight - PAD) {
      stage.scrollTop = top + this.height + PAD - stage.clientHeight;
    }
    this.draw();
    this.tiles.get(number)?.focus({ preventScroll: true });
  }

  point(number) {
    const before = this.tiles.get(this.cursor), now = this.tiles.get(number);
    if (before) before.tabIndex = -1;
    if (now) now.tabIndex = 0;
    this.cursor = number;
  }

  focusTask(task) {
    const number = this.numbers.get(task.key);
    if (number !== undefined) this.focus(number);
  }

  refresh() { this.tiles.forEach(marked); }
}
