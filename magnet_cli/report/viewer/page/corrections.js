"use strict";

/* Corrections of the mask that is shown: regions that are painted or drawn with another class. The server makes valid
   polygons of them and saves them in a file beside the mask after every change. viewer.js is loaded after this file. */

const TOOLS = ["move", "brush", "polygon"];
const MOST_LISTED = 100;
const NEAR = 10;
const TOUCHING = 3;
const COVER = 0.75;

/* By the number of a mask: its file, the corrections on the page, those on the server, and those before each change. */
const drawn = new Map();
const drawing = { tool: "move", label: 0, width: 30, on: true, stroke: null, corners: [], pointer: null, keys: false };
const fingers = new Set();
let listedNow = null;

const ours = () => drawn.get(shown.mask);

async function showCorrections() {
  const mask = state.masks[shown.mask];
  $("corrections-section").hidden = !mask?.corrections;
  if (!mask?.corrections) { choose("move"); return; }
  const number = shown.mask;
  if (!drawn.has(number)) {
    drawn.set(number, { file: mask.corrections, revision: "", list: [], saved: [], before: [], problem: "", busy: false, dirty: false });
    await reload(number);
  }
  listCorrections();
}

async function reload(number) {
  const entry = drawn.get(number);
  try {
    const answer = await fetch(`corrections/${number}`);
    if (!answer.ok) throw new Error(await answer.text());
    take(entry, await answer.json());
    entry.problem = "";
  } catch (error) {
    entry.problem = error.message;
  }
}

function take(entry, found) {
  entry.revision = found.revision;
  entry.list = entry.saved = found.corrections;
}

function connectCorrections() {
  for (const tool of TOOLS) $(`tool-${tool}`).addEventListener("click", () => choose(tool));
  $("correction-class").addEventListener("change", () => { drawing.label = Number($("correction-class").value); listCorrections(); });
  $("brush").addEventListener("input", () => { drawing.width = Number($("brush").value); listCorrections(); draw(); });
  $("corrections-on").addEventListener("change", () => { drawing.on = $("corrections-on").checked; draw(); });
  $("undo").addEventListener("click", undo);
  $("close-polygon").addEventListener("click", closePolygon);
  const view = $("view");
  view.addEventListener("pointerdown", pressed, true);
  view.addEventListener("pointermove", moved, true);
  for (const kind of ["pointerup", "pointercancel"]) view.addEventListener(kind, released, true);
  view.addEventListener("pointerleave", () => { drawing.pointer = null; draw(); });
  viewer.addHandler("animation-finish", showWidth);
  viewer.addHandler("canvas-click", (event) => {
    if (drawing.tool === "move") return;
    event.preventDefaultAction = true;
    if (drawing.tool === "polygon" && event.quick) corner(viewer.viewport.pointFromPixel(event.position, true));
  });
  viewer.addHandler("canvas-double-click", (event) => {
    if (drawing.tool === "move") return;
    event.preventDefaultAction = true;
    if (drawing.tool === "polygon") closePolygon();
  });
}

function choose(tool) {
  if (tool !== "move" && !ours()) return;
  drawing.tool = tool;
  drawing.stroke = null;
  drawing.corners = [];
  /* While the brush paints, one finger or the mouse does not move the image. Wheel, two fingers and keys still do. */
  for (const settings of [viewer.gestureSettingsMouse, viewer.gestureSettingsTouch, viewer.gestureSettingsPen, viewer.gestureSettingsUnknown]) {
    if (!settings) continue;
    settings.dragToPan = tool !== "brush";
    settings.flickEnabled = tool !== "brush" && settings !== viewer.gestureSettingsMouse;
    settings.dblClickToZoom = tool === "move";
  }
  for (const name of TOOLS) $(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
  $("view").dataset.tool = tool;
  listCorrections();
  draw();
}

/* The place of a pointer in level-0 pixels. */
function placeOf(event) {
  const box = $("view").getBoundingClientRect();
  const found = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top), true);
  return [found.x, found.y];
}

function pressed(event) {
  /* A mouse is one pointer, also where its last release was missed. */
  if (event.pointerType === "mouse") fingers.clear();
  fingers.add(event.pointerId);
  drawing.keys = false;
  if (drawing.tool !== "brush" || event.button !== 0) return;
  /* A second finger zooms, so the first one has not meant to paint. */
  drawing.stroke = fingers.size > 1 ? null : { id: event.pointerId, line: [placeOf(event)], width: drawing.width / scale() };
  draw();
}

function moved(event) {
  drawing.pointer = placeOf(event);
  drawing.keys = false;
  if (drawing.tool === "move") return;
  if (drawing.stroke?.id === event.pointerId) {
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const place = placeOf(part);
      const last = drawing.stroke.line.at(-1);
      if (Math.hypot(place[0] - last[0], place[1] - last[1]) * scale() >= 1) drawing.stroke.line.push(place);
    }
  }
  draw();
}

function released(event) {
  fingers.delete(event.pointerId);
  const stroke = drawing.stroke;
  if (stroke?.id !== event.pointerId) return;
  drawing.stroke = null;
  if (event.type === "pointerup") add({ label: drawing.label, line: stroke.line, width: stroke.width });
  draw();
}

function corner(point) {
  const place = [point.x, point.y];
  const [first, last] = [drawing.corners[0], drawing.corners.at(-1)];
  const near = (other, reach) => other && Math.hypot(place[0] - other[0], place[1] - other[1]) * scale() <= reach;
  if (drawing.corners.length >= 3 && near(first, NEAR)) { closePolygon(); return; }
  if (!near(last, TOUCHING)) drawing.corners.push(place);
  listCorrections();
  draw();
}

function closePolygon() {
  const corners = drawing.corners;
  if (corners.length < 3) { say("A polygon has at least three corners."); setTimeout(() => say(""), 3000); return; }
  drawing.corners = [];
  add({ label: drawing.label, polygons: [[corners]] });
  draw();
}

function add(correction) {
  change([...ours().list, correction]);
}

function remove(index) {
  change(ours().list.filter((_, other) => other !== index));
}

function change(list) {
  const entry = ours();
  entry.before.push(entry.list);
  entry.list = list;
  save(shown.mask);
}

function undo() {
  const entry = ours();
  if (!entry) return;
  if (drawing.corners.length) { drawing.corners.pop(); listCorrections(); draw(); return; }
  /* After a reload there is nothing before, and undoing takes the latest correction away. */
  if (!entry.before.length && !entry.list.length) return;
  entry.list = entry.before.pop() ?? entry.list.slice(0, -1);
  save(shown.mask);
}

/* One request at a time: what was drawn meanwhile is sent with the next one. */
async function save(number) {
  const entry = drawn.get(number);
  entry.dirty = true;
  listCorrections();
  draw();
  if (entry.busy) return;
  entry.busy = true;
  while (entry.dirty) {
    entry.dirty = false;
    const list = entry.list;
    const sent = list.map(({ label, polygons, line, width }) => (line ? { label, line, width } : { label, polygons }));
    try {
      const answer = await fetch(`corrections/${number}`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ revision: entry.revision, corrections: sent }),
      });
      if (!answer.ok) throw new Error(await answer.text());
      const found = await answer.json();
      entry.revision = found.revision;
      entry.saved = found.corrections;
      entry.problem = "";
      /* Shapes come back cut at the edge of the image, and strokes as polygons. */
      if (entry.list === list) entry.list = found.corrections;
    } catch (error) {
      entry.problem = `The last change is not saved: ${error.message}`;
      entry.list = entry.saved;
      entry.before = [];
      entry.dirty = false;
    }
  }
  entry.busy = false;
  listCorrections();
  draw();
}

function listCorrections() {
  const entry = ours();
  const classes = state.masks[shown.mask]?.classes ?? [];
  if (!entry) return;
  const select = $("correction-class");
  if (select.dataset.mask !== String(shown.mask)) {
    select.dataset.mask = shown.mask;
    select.replaceChildren(...classes.map((each, label) => new Option(each.name, label)));
    if (drawing.label >= classes.length) drawing.label = 0;
  }
  select.value = drawing.label;
  $("correction-swatch").style.background = classes[drawing.label]?.color ?? "";
  $("brush-row").hidden = drawing.tool !== "brush";
  $("brush").value = drawing.width;
  showWidth();
  $("close-polygon").hidden = drawing.tool !== "polygon";
  $("close-polygon").disabled = drawing.corners.length < 3;
  $("undo").disabled = !entry.before.length && !entry.list.length && !drawing.corners.length;
  $("tool-help").textContent = {
    move: "", brush: "Drag to paint. With keys: move the cross with the arrows, Space paints.",
    polygon: "Click or tap each corner; the first corner, a double click or Enter closes it. With keys: Space sets a corner at the cross.",
  }[drawing.tool];
  const count = `${entry.list.length.toLocaleString()} correction${entry.list.length === 1 ? "" : "s"}`;
  $("saved").textContent = entry.problem || (entry.busy || entry.dirty ? "Saving…"
    : entry.list.length || entry.revision ? `${count}, saved in ${entry.file}` : `Nothing is drawn yet. Corrections are saved in ${entry.file}.`);
  $("saved").className = entry.problem ? "problem" : "";
  /* A list that is made anew takes the focus away from its buttons. */
  if (listedNow === entry.list) return;
  listedNow = entry.list;
  const first = Math.max(0, entry.list.length - MOST_LISTED);
  const focused = document.activeElement?.dataset.remove;
  $("corrections").replaceChildren(...entry.list.slice(first).map((correction, offset) => {
    const index = first + offset;
    const item = listed(classes[correction.label]?.name ?? `label ${correction.label}`, classes[correction.label]?.color ?? "");
    const label = item.firstChild;
    const [go, drop] = [document.createElement("button"), document.createElement("button")];
    go.type = drop.type = "button";
    go.textContent = correction.area === undefined ? "…" : `${correction.area.toLocaleString()} px`;
    go.title = "Show this correction";
    go.disabled = !correction.polygons;
    go.addEventListener("click", () => visit({ rings: correction.polygons.flat() }));
    drop.textContent = "×";
    drop.title = "Remove this correction";
    drop.setAttribute("aria-label", "Remove this correction");
    drop.dataset.remove = index;
    drop.addEventListener("click", () => remove(index));
    label.append(go, drop);
    return item;
  }).reverse());
  if (focused !== undefined) ($("corrections").querySelector("[data-remove]") ?? $("view")).focus();
}

function showWidth() {
  $("brush-value").textContent = `${Math.max(1, Math.round(drawing.width / scale())).toLocaleString()} px of the image`;
}

/* Returns whether a key was meant for a tool. */
function correctionKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && ours()) { undo(); return true; }
  if (event.ctrlKey || event.metaKey || event.altKey || !ours()) return false;
  const elsewhere = event.target.closest("button, select, input, summary");
  if (elsewhere && (event.key === " " || event.key === "Enter" || elsewhere.tagName === "SELECT")) return false;
  if (event.key.startsWith("Arrow")) drawing.keys = drawing.tool !== "move";
  const middle = () => viewer.viewport.getCenter(true);
  const keys = {
    v: () => choose("move"), b: () => choose("brush"), p: () => choose("polygon"), u: undo,
    ...(drawing.tool === "move" ? {} : {
      " ": () => {
        drawing.keys = true;
        if (drawing.tool === "polygon") corner(middle());
        else add({ label: drawing.label, line: [[middle().x, middle().y]], width: drawing.width / scale() });
      },
      Enter: () => { if (drawing.tool === "polygon") closePolygon(); },
      Backspace: () => { if (drawing.corners.length) undo(); },
      Escape: () => { if (drawing.corners.length) { drawing.corners = []; listCorrections(); draw(); } else choose("move"); },
    }),
  };
  if (!keys[event.key]) return false;
  keys[event.key]();
  return true;
}

function pathOf(correction) {
  if (!correction.path) {
    const path = new Path2D();
    for (const ring of correction.polygons.flat()) {
      ring.forEach(([x, y], index) => { if (index) path.lineTo(x, y); else path.moveTo(x, y); });
      path.closePath();
    }
    Object.defineProperty(correction, "path", { value: path, enumerable: false });
  }
  return correction.path;
}

/* The class that a correction gives to a place, or null. The latest one counts. */
function correctedAt(x, y) {
  const pen = $("drawn").getContext("2d");
  pen.save();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  const found = ours()?.list.findLast((correction) => correction.polygons && pen.isPointInPath(pathOf(correction), x + 0.5, y + 0.5, "evenodd"));
  pen.restore();
  return found ? found.label : null;
}

function drawCorrections(pen) {
  const entry = ours();
  if (!entry || (!drawing.on && drawing.tool === "move")) return;
  const classes = state.masks[shown.mask].classes;
  const zoom = scale();
  const [left, top] = onScreen(0, 0);
  const ratio = devicePixelRatio || 1;
  const enlarged = (act) => {
    pen.save();
    pen.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * left, ratio * top);
    pen.lineCap = pen.lineJoin = "round";
    act();
    pen.restore();
  };
  enlarged(() => {
    for (const correction of drawing.on ? entry.list : []) {
      const color = classes[correction.label]?.color ?? "#ffffff";
      if (correction.line) { paintStroke(pen, correction, color); continue; }
      const path = pathOf(correction);
      pen.globalAlpha = COVER;
      pen.fillStyle = color;
      pen.fill(path, "evenodd");
      pen.globalAlpha = 1;
      for (const [style, wide, dash] of [["#000000", 4, []], ["#ffffff", 2, []], ["#000000", 2, [6, 6]]]) {
        pen.strokeStyle = style;
        pen.lineWidth = wide / zoom;
        pen.setLineDash(dash.map((length) => length / zoom));
        pen.stroke(path);
      }
    }
    if (drawing.stroke) paintStroke(pen, { ...drawing.stroke, label: drawing.label }, classes[drawing.label].color);
  });
  const cursor = drawing.keys ? viewer.viewport.getCenter(true) : drawing.pointer && { x: drawing.pointer[0], y: drawing.pointer[1] };
  if (drawing.tool === "polygon" && drawing.corners.length) {
    const places = [...drawing.corners, ...(cursor ? [[cursor.x, cursor.y]] : [])].map(([x, y]) => onScreen(x, y));
    stroke(pen, () => places.forEach(([x, y], index) => { if (index) pen.lineTo(x, y); else pen.moveTo(x, y); }), 2, classes[drawing.label].color);
    for (const [x, y] of drawing.corners.map((place) => onScreen(...place))) stroke(pen, () => pen.rect(x - 3, y - 3, 6, 6), 2);
  }
  if (drawing.tool === "move" || !cursor) return;
  const [x, y] = onScreen(cursor.x, cursor.y);
  if (drawing.tool === "brush") stroke(pen, () => pen.arc(x, y, drawing.width / 2, 0, 2 * Math.PI), 1);
  if (drawing.keys) {
    stroke(pen, () => { pen.moveTo(x - 12, y); pen.lineTo(x + 12, y); pen.moveTo(x, y - 12); pen.lineTo(x, y + 12); }, 2);
  }
}

function paintStroke(pen, { line, width }, color) {
  pen.globalAlpha = COVER;
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.setLineDash([]);
  pen.beginPath();
  pen.moveTo(...line[0]);
  for (const place of line.length > 1 ? line : [line[0], line[0]]) pen.lineTo(...place);
  pen.stroke();
  pen.globalAlpha = 1;
}
