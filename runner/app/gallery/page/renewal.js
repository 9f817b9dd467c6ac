"use strict";
// What a later `bulkrender gallery`, or one with --watch, wrote is shown without a reload. A page from disk may ask for
// nothing but scripts: newest.js, of one line, says when data.js was written.

const SOON_MS = 3_000, LATE_MS = 30_000;
const policy = globalThis.trustedTypes?.createPolicy("renewal", { createScriptURL: addressOf });
let written = GALLERY.made_at, pause_ms = SOON_MS, looking = false, timer;

// The query keeps the browser from showing what it has; it is no part of a file's name.
function addressOf(name) { return `${name === "data" ? "data" : "newest"}.js?${Date.now()}`; }

function loaded(name) {
  const script = document.createElement("script");
  return new Promise((done, failed) => {
    script.addEventListener("load", done);
    script.addEventListener("error", failed);
    script.src = policy ? policy.createScriptURL(name) : addressOf(name);
    document.head.append(script);
  }).finally(() => script.remove());
}

async function look() {
  clearTimeout(timer);
  if (document.hidden || looking) return;
  looking = true;
  pause_ms = Math.min(LATE_MS, pause_ms * 1.2);
  try {
    await loaded("newest");
    if (NEWEST !== written && !document.querySelector(":active")) {  // what is pressed is not taken away
      await loaded("data");
      written = NEWEST;
      pause_ms = SOON_MS;
      renew();
    }
  } catch (error) {
    if (!(error instanceof Event)) throw error;  // the folder may be on its way to another place
  } finally {
    looking = false;
    lookLater();
  }
}

function lookLater() {
  if (!GALLERY.done && !document.hidden) timer = setTimeout(look, pause_ms);
}

function renew() {
  const address = toAddress(), axes = JSON.stringify(AXES);  // by names: places may be others
  const sides = [AXES[view.rows]?.name, AXES[view.columns]?.name];  // a job without tasks has none
  take();
  fromAddress(address);
  [view.rows, view.columns] = [known(axisNamed(sides[0]), view.rows), known(axisNamed(sides[1]), view.columns)];
  if (JSON.stringify(AXES) !== axes) {
    makeMenus();
    fillSelects();
  }
  showHead();
  update({ keep: true });
  renewViewer();
}

document.addEventListener("visibilitychange", look);
lookLater();
