// Panning and zooming by mouse, touch and keyboard. One finger pans only a zoomed map, and the wheel zooms only with Ctrl or after a
// click on the map, so that the map never blocks scrolling of the page.
const down = new Map(); // positions of pressed pointers, by id
let traveled = 0;

const placeIn = (event) => {
  const box = plot.getBoundingClientRect();
  return [event.clientX - box.left - plot.clientLeft, event.clientY - box.top - plot.clientTop];
};

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  down.set(event.pointerId, placeIn(event));
  if (down.size === 1) traveled = 0;
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = placeIn(event);
  const before = down.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") hover(pointAt(x, y));
    return;
  }
  if (down.size === 1) {
    traveled += Math.hypot(x - before[0], y - before[1]);
    if (traveled > 4) {
      plot.classList.add("moving");
      moveBy(x - before[0], y - before[1]);
    }
  } else if (down.size === 2) {
    traveled = Infinity;
    const other = [...down].find(([id]) => id !== event.pointerId)[1];
    const factor = Math.hypot(x - other[0], y - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
    moveBy((x - before[0]) / 2, (y - before[1]) / 2);
    zoomBy(factor, (x + other[0]) / 2, (y + other[1]) / 2);
  }
  down.set(event.pointerId, [x, y]);
});

function released(event) {
  if (!down.delete(event.pointerId)) return;
  plot.classList.remove("moving");
  if (event.type !== "pointerup" || traveled > 4) return;
  const [x, y] = placeIn(event);
  const point = pointAt(x, y, event.pointerType === "mouse" ? 14 : 26);
  if (point >= 0) openViewer(point);
}
canvas.addEventListener("pointerup", released);
canvas.addEventListener("pointercancel", released);
canvas.addEventListener("pointerleave", () => down.size === 0 && hover(-1));
canvas.addEventListener("dblclick", (event) => zoomBy(2, ...placeIn(event)));

let hintTimer = 0;
plot.addEventListener(
  "wheel",
  (event) => {
    if (!event.ctrlKey && !event.metaKey && !plot.contains(document.activeElement)) {
      get("hint").hidden = false;
      clearTimeout(hintTimer);
      hintTimer = setTimeout(() => (get("hint").hidden = true), 1200);
      return;
    }
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    zoomBy(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), ...placeIn(event));
  },
  { passive: false },
);

const KEYS = {
  ArrowLeft: () => moveBy(60, 0),
  ArrowRight: () => moveBy(-60, 0),
  ArrowUp: () => moveBy(0, 60),
  ArrowDown: () => moveBy(0, -60),
  "+": () => zoomBy(1.4),
  "=": () => zoomBy(1.4),
  "-": () => zoomBy(1 / 1.4),
  0: () => zoomBy(0),
};
let announceTimer = 0;

plot.addEventListener("keydown", (event) => {
  if (event.target !== plot || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter") {
    if (hovered >= 0) openViewer(hovered);
  } else if (event.key === "s") {
    selectInView();
  } else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
    get("cross").hidden = false;
    clearTimeout(announceTimer);
    announceTimer = setTimeout(announceCenter, 250);
  }
});
plot.addEventListener("blur", () => {
  get("cross").hidden = true;
  clearTimeout(announceTimer);
  hover(-1);
});

function announceCenter() {
  const point = pointAt(view.width / 2, view.height / 2, Math.max(view.width, view.height));
  hover(point);
  get("status").textContent = point < 0 ? "No image here" : nameOfPoint(point);
}
