"use strict";

/* Coordinates of the viewport are level-0 pixels: the padded image is as wide as it has pixels. */

const $ = (id) => document.getElementById(id);
const SETTLE_MS = 150;
const POINTER_MS = 60;
const MOST_ENLARGED = 64;
const MOST_LIKELY = 3;
const MOST_LINES = 200;
const NEAREST_FROM = 2;
/* How long the page waits before it asks again what was added to a mask that is being computed. */
const ASK_MS = 2000;
const RIM = 2;
const FORMS = ["fill", "outline", "pattern"];
const WAYS = ["swap", "beside", "differences"];

let state;
let viewer;
const shown = { on: true, preview: true, mask: 0, other: -1, how: "swap", form: "fill", opacity: 50, hidden: new Set(), layer: "", layerOpacity: 70 };
const items = new Map();

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function start() {
  const answer = await fetch("state.json");
  if (!answer.ok) throw new Error(await answer.text());
  state = await answer.json();
  beginVersions();
  document.title = `${state.name} - magnet view`;
  $("name").textContent = state.name;
  $("facts").textContent = facts();
  if (state.masks.length > 1) shown.other = 1;
  const place = readHash();
  viewer = OpenSeadragon({
    id: "view", drawer: "canvas", showNavigationControl: false, keyboardNavEnabled: false,
    maxZoomPixelRatio: MOST_ENLARGED, minZoomImageRatio: 0.5, visibilityRatio: 0.2, animationTime: 0.25,
    immediateRender: true, imageLoaderLimit: 6, maxImageCacheCount: 400, timeout: 600000,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { pinchRotate: false },
    crossOriginPolicy: false, ajaxWithCredentials: false,
  });
  viewer.addHandler("tile-load-failed", (event) => { if (event.tile.exists) explain(event.tile.getUrl()); });
  viewer.addHandler("update-viewport", draw);
  viewer.addHandler("resize", () => requestAnimationFrame(draw));
  viewer.addHandler("animation", nearest);
  viewer.addHandler("animation-finish", () => { nearest(); writeHash(); });
  await put("image", source("image", state.coarsest), 1, 0);
  if (place) goTo(place, true); else home(true);
  fill();
  connect();
  connectCorrections();
  await refresh();
  document.body.dataset.ready = "yes";
  watch();
}

async function explain(url) {
  const answer = await fetch(url);
  // Beside an image that is padded to whole tiles there is nothing to show.
  if (!answer.ok && answer.status !== 404) say(await answer.text());
}

function facts() {
  const found = [`${state.size.width.toLocaleString()} × ${state.size.height.toLocaleString()} pixels`];
  if (state.resolution) found.push(`${short(state.resolution.x)} ${unit(state.resolution.unit)} a pixel`);
  if (state.crs) found.push(state.crs);
  return found.join(", ");
}

const unit = (name) => (name === "um" ? "µm" : name);
const short = (value) => Number(value.toPrecision(4)).toString();

function source(path, coarsest, query = "", version = () => "") {
  const top = state.coarsest;
  return {
    width: state.padded.width, height: state.padded.height, tileSize: state.tile, tileOverlap: 0,
    minLevel: top - coarsest, maxLevel: top,
    getTileUrl: (level, x, y) => `${path}/${top - level}/${x}/${y}${query}${version(top - level, x, y)}`,
    hasTransparency: () => true,
  };
}

/* A layer that changes is laid over its old version, which goes when the new one is there, so that nothing flickers. */
function put(key, tileSource, opacity, order) {
  return new Promise((resolve, reject) => {
    const old = items.get(key);
    const mark = {};
    items.set(key, { ...old, mark, order });
    viewer.addTiledImage({
      tileSource, x: 0, y: 0, width: state.padded.width, opacity,
      success: ({ item }) => {
        const now = items.get(key);
        if (!now || now.mark !== mark) { viewer.world.removeItem(item); resolve(); return; }
        if (old && old.item) {
          let done = false;
          const drop = () => {
            if (done) return;
            done = true;
            if (viewer.world.getIndexOfItem(old.item) >= 0) viewer.world.removeItem(old.item);
          };
          item.addHandler("fully-loaded-change", (event) => { if (event.fullyLoaded) drop(); });
          setTimeout(drop, 1500);
        }
        items.set(key, { item, mark, order, clip: "null" });
        arrange();
        resolve();
      },
      error: (event) => reject(new Error(event.message)),
    });
  });
}

function arrange() {
  const ordered = [...items.values()].filter((entry) => entry.item).sort((a, b) => a.order - b.order);
  ordered.forEach((entry, index) => {
    if (viewer.world.getIndexOfItem(entry.item) >= 0) viewer.world.setItemIndex(entry.item, Math.min(index, viewer.world.getItemCount() - 1));
  });
}

function drop(key) {
  const old = items.get(key);
  items.delete(key);
  if (old && old.item && viewer.world.getIndexOfItem(old.item) >= 0) viewer.world.removeItem(old.item);
}

/* What the two places for masks show now, as text; a place is loaded again only where its text changes. */
const loaded = new Map();

async function slot(key, number, truth, order) {
  if (number < 0) { loaded.delete(key); drop(key); return; }
  const mask = state.masks[number];
  const words = [`form=${shown.form}`];
  if (shown.hidden.size) words.push(`hidden=${[...shown.hidden].sort((a, b) => a - b).join(",")}`);
  if (truth >= 0) words.push(`truth=${truth}`); else if (shown.preview && mask.version !== null) words.push("preview=1");
  const coarsest = truth >= 0 ? Math.min(mask.coarsest, state.masks[truth].coarsest) : mask.coarsest;
  const query = `?${words.join("&")}`;
  const growing = [number, ...(truth >= 0 ? [truth] : [])].filter((each) => state.masks[each].version !== null);
  const text = `${number}${query} ${growing.map((each) => state.masks[each].version).join(",")}`;
  if (loaded.get(key) !== text) {
    loaded.set(key, text);
    const version = (zoom, x, y) => growing.map((each) => `&v${each}=${versionOf(each, zoom, x, y)}`).join("");
    await put(key, source(`mask/${number}`, coarsest, query, version), shown.on ? shown.opacity / 100 : 0, order);
  }
}

/* A mask that is being computed: the version in which each of its tiles has changed last, or that of the state with
   which the page began. Tiles that stay have the address that they had, so that they are not fetched again; a page that
   is loaded again begins with a later version, so that it gets no tile that the browser has kept from before. */
const changedIn = new Map();
let firstVersions = [];

function beginVersions() {
  changedIn.clear();
  firstVersions = state.masks.map((mask) => mask.version);
}

function versionOf(number, zoom, x, y) {
  return changedIn.get(number)?.get(`${zoom}/${x}/${y}`) ?? firstVersions[number] ?? "";
}

function noteChanges(number, version, squares) {
  const known = changedIn.get(number) ?? new Map();
  changedIn.set(number, known);
  for (const [column, row] of squares) {
    for (let zoom = 0; zoom <= state.coarsest; zoom += 1) {
      const [side, rim] = [state.tile << zoom, RIM << zoom];
      const first = (place) => Math.floor((place * state.tile - rim) / side);
      const last = (place) => Math.floor(((place + 1) * state.tile + rim - 1) / side);
      for (let x = first(column); x <= last(column); x += 1) {
        for (let y = first(row); y <= last(row); y += 1) known.set(`${zoom}/${x}/${y}`, version);
      }
    }
  }
}

async function watch() {
  while (state.masks.some((mask) => mask.version !== null)) {
    let again = ASK_MS;
    if (!document.hidden) {
      try { if (await askChanges()) again = 0; } catch { $("progress").textContent = "The page is not served any more."; }
    }
    await new Promise((done) => { setTimeout(done, again); });
  }
  $("progress-section").hidden = true;
}

/* Returns whether the server has more to read at once. */
async function askChanges() {
  const answer = await fetch(`changes.json?since=${state.masks.map((mask) => mask.version ?? 0).join(",")}`);
  if (!answer.ok) throw new Error(await answer.text());
  const found = await answer.json();
  const replaced = found.revision !== state.revision;
  if (replaced) {
    state = await (await fetch("state.json")).json();
    beginVersions();
    rows = "";
    if (state.layers.some((layer) => layer.outdated && layer.name === shown.layer)) shown.layer = shown.layer.replace(/, so far$/, "");
    fill();
  } else {
    for (const [number, facts] of Object.entries(found.masks)) {
      noteChanges(Number(number), facts.version, facts.changed);
      state.masks[number].version = facts.version;
    }
  }
  showProgress(found.masks);
  $("preview-row").hidden = !Object.values(found.masks).some((facts) => facts.previews.length);
  const masks = Object.values(found.masks);
  if (replaced || masks.some((facts) => facts.changed.length)) await refresh();
  return masks.some((facts) => !facts.whole && !facts.problem);
}

function showProgress(masks) {
  $("progress-section").hidden = !Object.keys(masks).length;
  $("progress").replaceChildren(...Object.entries(masks).map(([number, facts]) => {
    const item = document.createElement("li");
    const lines = [];
    const done = facts.finished.reduce((sum, each) => sum + each, 0);
    if (facts.groups) {
      const all = facts.groups.reduce((sum, each) => sum + each, 0);
      const bar = document.createElement("progress");
      [bar.max, bar.value] = [all, done];
      bar.setAttribute("aria-label", `Progress of ${state.masks[number].name}`);
      item.append(bar);
      const passes = facts.groups.length > 1 ? `Pass ${passOf(facts)} of ${facts.groups.length}. ` : "";
      lines.push(`${passes}${done.toLocaleString()} of ${all.toLocaleString()} groups of windows, ${Math.floor((100 * done) / all)} %.`);
    } else {
      lines.push(done ? `${done.toLocaleString()} groups of windows are finished.` : "No group of windows is finished yet.");
    }
    if (facts.previews.length) lines.push(`${previewed(facts.previews)} ${ROUGH}.`);
    lines.push(doing(facts));
    if (!facts.whole && !facts.problem) lines.push("The page is still reading what is there.");
    if (state.masks.length > 1) lines.unshift(`${state.masks[number].name}:`);
    for (const [text, kind] of [...lines.map((line) => [line, ""]), ...(facts.problem ? [[facts.problem, "problem"]] : [])]) {
      const line = document.createElement("p");
      line.textContent = text;
      line.className = kind;
      item.append(line);
    }
    return item;
  }));
}

const ROUGH = "not yet refined";
function previewed(scales) {
  return `Striped: preview of scale${scales.length > 1 ? "s" : ""} ${scales.join(" and ")},`;
}

function passOf(facts) {
  const open = facts.groups.findIndex((groups, index) => (facts.finished[index] ?? 0) < groups);
  return open < 0 ? facts.groups.length : open + 1;
}

function doing(facts) {
  const ago = `${span(facts.age)} ago`;
  if (facts.ended && facts.running !== false) return "The file of the mask is being written.";
  if (facts.running) return `A run is computing it. The last change was ${ago}.`;
  if (facts.running === false) return `No run on this machine is computing it now. The last change was ${ago}. The same command goes on with a run that was interrupted.`;
  return `The last change was ${ago}. The same command goes on with a run that was interrupted.`;
}

function span(seconds) {
  for (const [length, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / length);
    if (count) return `${count} ${name}${count > 1 ? "s" : ""}`;
  }
  return `${Math.round(seconds)} s`;
}

/* How many changes are being applied, so that a test can wait for the last one. */
let changing = 0;
async function refresh() {
  changing += 1;
  try { await apply(); } finally { changing -= 1; }
}

async function apply() {
  const compares = shown.other >= 0 && shown.other !== shown.mask;
  const how = compares ? shown.how : "swap";
  await Promise.all([
    slot("first", state.masks.length ? shown.mask : -1, how === "differences" ? shown.other : -1, 1),
    slot("second", how === "beside" ? shown.other : -1, -1, 2),
  ]);
  for (const key of ["first", "second"]) {
    const entry = items.get(key);
    if (entry && entry.item) entry.item.setOpacity(shown.on ? shown.opacity / 100 : 0);
  }
  await placeLayer();
  $("by-number").hidden = how !== "differences" || names(shown.mask) === names(shown.other);
  $("outcomes").hidden = how !== "differences";
  curtain();
  show();
  writeHash();
  await showCorrections();
  draw();
}

const names = (number) => JSON.stringify(state.masks[number].classes.map((entry) => entry.name));

/* The layer of values that is chosen lies over the masks. */
let placed = "";
async function placeLayer() {
  const number = state.layers.findIndex((layer) => layer.name === shown.layer && !layer.outdated);
  if (number < 0) shown.layer = "";
  const growing = number < 0 ? null : state.layers[number].growing;
  const text = `${shown.layer} ${number} ${growing === null ? "" : state.masks[growing].version}`;
  if (placed !== text) {
    const isSame = placed.startsWith(`${shown.layer} ${number} `);
    placed = text;
    if (!isSame) drop("layer");
    const version = growing === null ? undefined : (zoom, x, y) => `?v=${versionOf(growing, zoom, x, y)}`;
    if (number >= 0) await put("layer", source(`layer/${number}`, state.layers[number].coarsest, "", version), shown.layerOpacity / 100, 3);
  }
  const entry = items.get("layer");
  if (entry?.item) entry.item.setOpacity(shown.layerOpacity / 100);
  $("heat").hidden = number < 0 || !state.layers[number].heat;
  for (const box of $("layers").querySelectorAll("input")) box.checked = box.value === shown.layer;
}

/* Side by side: the first mask left of the middle of the view, the second right of it. */
function curtain() {
  const first = items.get("first");
  const second = items.get("second");
  const middle = second?.item ? Math.min(Math.max(viewer.viewport.getCenter(true).x, 0), state.padded.width) : null;
  clip(first, middle === null ? null : [0, middle]);
  clip(second, middle === null ? null : [middle, state.padded.width]);
}

/* A clip that is set draws the view again, and drawing sets the clip: only a new one is set. */
function clip(entry, span) {
  if (!entry?.item || entry.clip === String(span)) return;
  entry.clip = String(span);
  entry.item.setClip(span && new OpenSeadragon.Rect(span[0], 0, span[1] - span[0], state.padded.height));
}

function scale() {
  return viewer.viewport.getContainerSize().x * viewer.viewport.getZoom(true);
}

/* From two screen pixels for each image pixel on, pixels are shown as squares. */
function nearest() {
  viewer.drawer.setImageSmoothingEnabled(scale() < NEAREST_FROM);
  const mask = state.masks[shown.mask];
  $("zoom-in").hidden = !mask || mask.coarsest >= state.coarsest || scale() * 2 ** (mask.coarsest + 1) >= 1;
}

function home(now) {
  viewer.viewport.fitBounds(new OpenSeadragon.Rect(0, 0, state.size.width, state.size.height), now);
}

function zoomTo(value, now) {
  viewer.viewport.zoomTo(value / viewer.viewport.getContainerSize().x, null, now);
  viewer.viewport.applyConstraints(now);
}

function goTo(place, now) {
  viewer.viewport.panTo(new OpenSeadragon.Point(place.x, place.y), now);
  viewer.viewport.zoomTo(place.z / viewer.viewport.getContainerSize().x, null, now);
}

/* The link: centre in level-0 pixels, screen pixels for each image pixel, and what is shown. */
let written = "";
function writeHash() {
  const centre = viewer.viewport.getCenter();
  const zoom = viewer.viewport.getContainerSize().x * viewer.viewport.getZoom();
  const words = [`x=${centre.x.toFixed(2)}`, `y=${centre.y.toFixed(2)}`, `z=${Number(zoom.toPrecision(6))}`];
  if (state.masks.length) {
    words.push(`mask=${shown.mask}`, `opacity=${shown.opacity}`, `form=${shown.form}`);
    if (!shown.on) words.push("off=1");
    if (!shown.preview) words.push("preview=0");
    if (shown.other >= 0) words.push(`other=${shown.other}`, `how=${shown.how}`);
    if (shown.hidden.size) words.push(`hidden=${[...shown.hidden].sort((a, b) => a - b).join(",")}`);
  }
  if (shown.layer) words.push(`layer=${encodeURIComponent(shown.layer)}`);
  written = `#${words.join("&")}`;
  /* Browsers refuse to change the address very often, as while a slider is moved; the next change sets it. */
  try { if (location.hash !== written) history.replaceState(null, "", written); } catch { /* as above */ }
}

function readHash() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high) => {
    const value = found.get(name);
    return value !== null && value !== "" && Number(value) >= low && Number(value) <= high ? Number(value) : null;
  };
  const count = state.masks.length - 1;
  shown.mask = Math.trunc(number("mask", 0, count) ?? shown.mask);
  shown.other = Math.trunc(number("other", 0, count) ?? shown.other);
  shown.opacity = number("opacity", 0, 100) ?? shown.opacity;
  shown.on = !found.has("off");
  shown.preview = found.get("preview") !== "0";
  if (FORMS.includes(found.get("form"))) shown.form = found.get("form");
  if (WAYS.includes(found.get("how"))) shown.how = found.get("how");
  shown.hidden = new Set((found.get("hidden") || "").split(",").filter((word) => /^\d{1,3}$/.test(word)).map(Number));
  shown.layer = found.get("layer") || "";
  const place = { x: number("x", -1e9, 1e9), y: number("y", -1e9, 1e9), z: number("z", 1e-9, 1e4) };
  return place.x === null || place.y === null || place.z === null ? null : place;
}

function fill() {
  $("mask-section").hidden = !state.masks.length;
  for (const id of ["mask", "other"]) {
    $(id).replaceChildren(...state.masks.map((mask, index) => new Option(mask.name, index)));
  }
  $("other").prepend(new Option("none", -1));
  $("other-row").hidden = state.masks.length < 2;
  const layers = state.layers.filter((layer) => !layer.outdated);
  $("layers-section").hidden = !layers.length;
  $("layers").replaceChildren(...["", ...layers.map((layer) => layer.name)].map((name) => {
    const box = document.createElement("input");
    box.type = "radio";
    box.name = "layer";
    box.value = name;
    box.addEventListener("change", () => { shown.layer = name; refresh(); });
    const item = listed(name || "none", "", box);
    item.querySelector(".swatch").remove();
    return item;
  }));
  $("heat").style.background = `linear-gradient(to right, ${state.heat.join(", ")})`;
  $("regions-section").hidden = !state.regions.length;
  $("regions").replaceChildren(...state.regions.map((region) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = region.name;
    button.addEventListener("click", () => visit(region));
    item.append(button);
    return item;
  }));
  $("outcomes").replaceChildren(...state.outcomes.map((entry) => listed(entry.name, entry.color)));
}

function listed(name, color, box) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = color;
  const text = document.createElement("span");
  text.textContent = name;
  label.append(...(box ? [box] : []), swatch, text);
  item.append(label);
  return item;
}

/* A class of either mask that is shown has a row; the names are those of the first. */
let rows = "";
function show() {
  $("mask-on").checked = shown.on;
  $("preview-on").checked = shown.preview;
  $("mask").value = shown.mask;
  $("other").value = shown.other;
  $("how").value = shown.how;
  $("how-row").hidden = shown.other < 0 || shown.other === shown.mask;
  $("form").value = shown.form;
  $("opacity").value = shown.opacity;
  $("opacity-value").textContent = `${shown.opacity} %`;
  nearest();
  if (!state.masks.length) return;
  const key = `${shown.mask} ${[...shown.hidden].join(",")}`;
  if (key === rows) return;
  rows = key;
  const focused = document.activeElement && document.activeElement.dataset.label;
  $("classes").replaceChildren(...state.masks[shown.mask].classes.map((entry, label) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !shown.hidden.has(label);
    box.dataset.label = label;
    box.addEventListener("change", () => {
      if (box.checked) shown.hidden.delete(label); else shown.hidden.add(label);
      refresh();
    });
    const item = listed(entry.name, entry.color, box);
    item.dataset.label = label;
    return item;
  }));
  if (focused !== undefined) $("classes").querySelector(`input[data-label="${focused}"]`)?.focus();
}

function visit(region) {
  const corners = region.rings.flat();
  const [left, top] = [0, 1].map((axis) => corners.reduce((least, corner) => Math.min(least, corner[axis]), Infinity));
  const [right, bottom] = [0, 1].map((axis) => corners.reduce((most, corner) => Math.max(most, corner[axis]), -Infinity));
  const rim = 0.1 * Math.max(right - left, bottom - top);
  viewer.viewport.fitBoundsWithConstraints(new OpenSeadragon.Rect(left - rim, top - rim, right - left + 2 * rim, bottom - top + 2 * rim));
}

function swap() {
  if (shown.other < 0) return;
  [shown.mask, shown.other] = [shown.other, shown.mask];
  refresh();
}

function nextOf(list, value) {
  return list[(list.indexOf(value) + 1) % list.length];
}

async function copyLink() {
  writeHash();
  try { await navigator.clipboard.writeText(location.href); say("The link to this place is copied. It works while this page is served."); } catch { say(location.href); }
  setTimeout(() => say(""), 4000);
}

function connect() {
  $("home").addEventListener("click", () => home(false));
  $("pixels").addEventListener("click", () => zoomTo(1, false));
  $("closer").addEventListener("click", () => zoomBy(2));
  $("farther").addEventListener("click", () => zoomBy(0.5));
  $("link").addEventListener("click", copyLink);
  $("mask-on").addEventListener("change", () => { shown.on = $("mask-on").checked; refresh(); });
  $("preview-on").addEventListener("change", () => { shown.preview = $("preview-on").checked; refresh(); });
  $("mask").addEventListener("change", () => { shown.mask = Number($("mask").value); refresh(); });
  $("other").addEventListener("change", () => { shown.other = Number($("other").value); refresh(); });
  $("how").addEventListener("change", () => { shown.how = $("how").value; refresh(); });
  $("form").addEventListener("change", () => { shown.form = $("form").value; refresh(); });
  $("opacity").addEventListener("input", () => { shown.opacity = Number($("opacity").value); refresh(); });
  $("layer-opacity").addEventListener("input", () => { shown.layerOpacity = Number($("layer-opacity").value); refresh(); });
  $("all").addEventListener("click", () => { shown.hidden.clear(); refresh(); });
  $("none").addEventListener("click", () => { state.masks[shown.mask].classes.forEach((_, label) => shown.hidden.add(label)); refresh(); });
  for (const kind of ["pointermove", "pointerdown"]) $("view").addEventListener(kind, point);
  $("view").addEventListener("pointerleave", () => { last = null; $("place").textContent = ""; $("under").textContent = ""; mark([]); });
  document.addEventListener("keydown", press);
  addEventListener("hashchange", () => {
    if (location.hash === written) return;
    const place = readHash();
    if (place) goTo(place, true);
    refresh();
  });
}

function zoomBy(factor) {
  viewer.viewport.zoomBy(factor);
  viewer.viewport.applyConstraints();
}

function press(event) {
  if (correctionKey(event)) { event.preventDefault(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("select, input");
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (typing && (event.key in arrows || typing.tagName === "SELECT")) return;
  if (event.key in arrows) {
    const step = 100 / scale();
    const [x, y] = arrows[event.key];
    viewer.viewport.panBy(new OpenSeadragon.Point(x * step, y * step));
    viewer.viewport.applyConstraints();
  } else {
    const keys = {
      "+": () => zoomBy(2), "=": () => zoomBy(2), "-": () => zoomBy(0.5), 0: () => home(false), 1: () => zoomTo(1, false),
      m: () => { shown.on = !shown.on; refresh(); },
      "[": () => { shown.opacity = Math.max(0, shown.opacity - 10); refresh(); },
      "]": () => { shown.opacity = Math.min(100, shown.opacity + 10); refresh(); },
      o: () => { shown.form = nextOf(FORMS, shown.form); refresh(); },
      s: swap, c: () => { shown.how = nextOf(WAYS, shown.how); refresh(); }, l: copyLink,
    };
    const act = keys[event.key];
    if (!act) return;
    act();
  }
  event.preventDefault();
}

/* The pointer: its place at once, the classes under it as soon as the server has answered. */
let last = null;
let timer = 0;
function point(event) {
  const box = $("view").getBoundingClientRect();
  const found = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top), true);
  const x = Math.floor(found.x);
  const y = Math.floor(found.y);
  if (last && last.x === x && last.y === y) return;
  last = { x, y };
  if (x < 0 || y < 0 || x >= state.size.width || y >= state.size.height) {
    $("place").textContent = "outside the image";
    $("under").textContent = "";
    mark([]);
    return;
  }
  $("place").textContent = where(found, x, y);
  clearTimeout(timer);
  timer = setTimeout(() => ask(x, y), POINTER_MS);
}

function where(found, x, y) {
  const parts = [`x ${x}, y ${y} px`];
  if (state.resolution) {
    const { x: across, y: down, unit: name } = state.resolution;
    parts.push(`${(found.x * across).toFixed(2)}, ${(found.y * down).toFixed(2)} ${unit(name)}`);
  }
  if (state.geotransform) {
    const [[a, b], [d, e]] = state.geotransform.matrix;
    const [east, north] = state.geotransform.origin;
    const digits = Math.max(0, Math.min(8, 2 - Math.floor(Math.log10(Math.hypot(a, d)))));
    const values = [a * found.x + b * found.y + east, d * found.x + e * found.y + north];
    parts.push(`${values.map((value) => value.toFixed(digits)).join(", ")} ${state.crs || ""}`.trim());
  }
  return parts.join(" · ");
}

async function ask(x, y) {
  const answer = await fetch(`at?x=${x}&y=${y}`);
  if (!last || last.x !== x || last.y !== y) return;
  if (!answer.ok) { $("under").textContent = await answer.text(); return; }
  const found = await answer.json();
  const corrected = correctedAt(x, y);
  const name = corrected === null ? "" : ` · corrected: ${state.masks[shown.mask].classes[corrected].name}`;
  $("under").textContent = under(found) + name;
  mark(found.labels);
}

function under(found) {
  return state.masks.map((mask, index) => {
    const label = found.labels[index];
    const name = (label === null ? none(mask, found.previews[index]) : mask.classes[label]?.name ?? `label ${label}`) + likely(mask, found.probabilities[index]);
    return state.masks.length > 1 ? `${mask.name}: ${name}` : name;
  }).join(" · ");
}

function none(mask, preview) {
  if (!preview || !shown.preview) return "no class";
  return `${mask.classes[preview.label]?.name ?? `label ${preview.label}`} (preview: scale ${preview.scale}, ${ROUGH})`;
}

function likely(mask, values) {
  if (!values) return "";
  const ranked = values.map((value, label) => [value, label]).sort((a, b) => b[0] - a[0]).slice(0, MOST_LIKELY);
  return ` (${ranked.map(([value, label]) => `${mask.classes[label]?.name ?? label} ${(100 * value).toFixed(0)} %`).join(", ")})`;
}

function mark(labels) {
  const label = labels[shown.mask];
  for (const item of $("classes").children) item.classList.toggle("under", label != null && Number(item.dataset.label) === label);
}

/* Over the image: the scale bar, and the line between two masks side by side. */
function draw() {
  const canvas = $("drawn");
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  curtain();
  if (items.get("second")?.item) stroke(pen, () => { pen.moveTo(width / 2, 0); pen.lineTo(width / 2, height); }, 2);
  cells(pen, width, height);
  regions(pen);
  drawCorrections(pen);
  scaleBar(pen, height);
}

function onScreen(x, y) {
  const found = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x, y), true);
  return [found.x, found.y];
}

/* The borders of the windows' own parts, where they are far enough apart to be seen. */
function cells(pen, width, height) {
  const cell = state.layers.find((layer) => layer.name === shown.layer)?.cell;
  if (!cell || width / (cell[0] * scale()) > MOST_LINES) return;
  const [right, bottom] = onScreen(state.size.width, state.size.height);
  const [left, top] = onScreen(0, 0);
  const view = viewer.viewport.getBounds(true);
  pen.beginPath();
  for (let line = Math.max(0, Math.floor(view.x / cell[0])); line * cell[0] <= Math.min(state.size.width, view.x + view.width); line += 1) {
    const [x] = onScreen(line * cell[0], 0);
    pen.moveTo(x, Math.max(0, top));
    pen.lineTo(x, Math.min(height, bottom));
  }
  for (let line = Math.max(0, Math.floor(view.y / cell[1])); line * cell[1] <= Math.min(state.size.height, view.y + view.height); line += 1) {
    const [, y] = onScreen(0, line * cell[1]);
    pen.moveTo(Math.max(0, left), y);
    pen.lineTo(Math.min(width, right), y);
  }
  pen.strokeStyle = "#ffffff";
  pen.lineWidth = 1;
  pen.stroke();
}

function regions(pen) {
  pen.font = "600 13px system-ui, sans-serif";
  for (const region of state.regions) {
    stroke(pen, () => {
      for (const ring of region.rings) {
        ring.forEach(([x, y], index) => { const [across, down] = onScreen(x, y); if (index) pen.lineTo(across, down); else pen.moveTo(across, down); });
        pen.closePath();
      }
    }, 2);
    const highest = region.rings.flat().reduce((best, corner) => (corner[1] < best[1] ? corner : best));
    const [x, y] = onScreen(...highest);
    write(pen, region.name, x + 4, y - 6);
  }
}

function write(pen, text, x, y) {
  pen.lineWidth = 3;
  pen.strokeStyle = "#000000";
  pen.strokeText(text, x, y);
  pen.fillStyle = "#ffffff";
  pen.fillText(text, x, y);
}

/* Dark on light, so that it can be seen on any image. */
function stroke(pen, path, width, color = "#ffffff") {
  for (const [style, wide] of [["#000000", width + 2], [color, width]]) {
    pen.beginPath();
    path();
    pen.strokeStyle = style;
    pen.lineWidth = wide;
    pen.stroke();
  }
}

const UNITS = { um: [["nm", 1e-3], ["µm", 1], ["mm", 1e3], ["cm", 1e4]], m: [["mm", 1e-3], ["m", 1], ["km", 1e3]], px: [["px", 1]] };

function scaleBar(pen, height) {
  const size = state.resolution || { x: 1, unit: "px" };
  const perPixel = size.x / scale();
  const most = 160 * perPixel;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((digit) => digit * power).find((value) => value <= most) ?? power;
  const [name, factor] = [...UNITS[size.unit]].reverse().find(([, each]) => length >= each) ?? UNITS[size.unit][0];
  const across = length / perPixel;
  const [left, bottom] = [16, height - 18];
  stroke(pen, () => { pen.moveTo(left, bottom - 6); pen.lineTo(left, bottom); pen.lineTo(left + across, bottom); pen.lineTo(left + across, bottom - 6); }, 2);
  const text = `${Number((length / factor).toPrecision(3))} ${name}`;
  pen.font = "600 13px system-ui, sans-serif";
  write(pen, text, left + 4, bottom - 9);
  document.body.dataset.bar = `${text} ${across.toFixed(2)}`;
}

start().catch((error) => say(`The page cannot be shown: ${error.message}`));
