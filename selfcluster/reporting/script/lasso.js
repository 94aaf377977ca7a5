// Images selected on the map, with a lasso or as all in view: they become a cluster, or a list.
const MOST_SELECTED_SHOWN = 40;
let lassoing = false; // whether the mouse or a finger draws, instead of panning
let outline = null; // corners of the lasso, as places on the map between 0 and 1

const placeOnMap = ([x, y]) => [(x - view.width / 2) / across() + view.x, view.y - (y - view.height / 2) / unit()];

function setLassoing(on) {
  lassoing = on;
  get("lasso").setAttribute("aria-pressed", on);
  plot.classList.toggle("lassoing", on);
}

// By the even-odd rule: a line from the point to the right crosses the outline an odd number of times.
function isInside(x, y, corners) {
  let inside = false;
  for (let i = 0, before = corners.length - 1; i < corners.length; before = i++) {
    const [[ax, ay], [bx, by]] = [corners[i], corners[before]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function selectWithin(corners) {
  const found = [];
  for (let i = 0; i < n; i++) if (isHighlighted(i) && isInside(xs[i] / 65535, ys[i] / 65535, corners)) found.push(i);
  select(found);
}

function selectInView() {
  const [right, low] = placeOnMap([view.width, view.height]);
  const [left, high] = placeOnMap([0, 0]);
  selectWithin([[left, low], [right, low], [right, high], [left, high]]);
}

function select(points) {
  const box = get("selected");
  setLassoing(false);
  selected = points.length ? Uint8Array.from({ length: n }, () => 0) : null;
  for (const point of points) selected[point] = 1;
  box.hidden = !points.length;
  if (points.length) {
    const text = `${counted(points.length)} image${points.length === 1 ? "" : "s"} selected`;
    get("n-selected").textContent = text;
    get("status").textContent = text;
    get("selected-photos").replaceChildren(...strip(points.slice(0, MOST_SELECTED_SHOWN), "Images selected", "small").childNodes);
  }
  redraw();
}

const selection = () => [...indices.keys()].filter((point) => selected[point]);

function makeCluster() {
  const points = selection();
  const left = drawn.map(({ id, points }) => ({ id, points: points.filter((point) => !selected[point]) })).filter(({ points }) => points.length);
  const id = 1 + Math.max(0, ...drawn.map((group) => group.id));
  select([]);
  change(cut, [...left, { id, points }]);
  goToCluster(clusters.length - 1);
}

// What the tree holds no parts of can still be parted by hand.
function splitOnMap(cluster) {
  focusOnMap(cluster);
  setLassoing(true);
}

function drawLasso() {
  if (!outline) return;
  pen.beginPath();
  for (const [x, y] of outline) pen.lineTo(xOnScreen(x * 65535) * view.ratio, yOnScreen(y * 65535) * view.ratio);
  pen.closePath();
  pen.fillStyle = isDark() ? "rgb(255 255 255 / 0.08)" : "rgb(0 0 0 / 0.06)";
  pen.strokeStyle = getComputedStyle(plot).color;
  pen.lineWidth = 1.5 * view.ratio;
  pen.fill();
  pen.stroke();
}

// These come before the listeners that pan, and keep the events from them.
canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || !(lassoing || event.shiftKey)) return;
  event.stopImmediatePropagation();
  canvas.setPointerCapture(event.pointerId);
  hover(-1);
  outline = [placeOnMap(placeIn(event))];
});
canvas.addEventListener("pointermove", (event) => {
  if (!outline) return;
  event.stopImmediatePropagation();
  outline.push(placeOnMap(placeIn(event)));
  redraw();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (!outline || !event.isPrimary) return;
    event.stopImmediatePropagation();
    const corners = outline;
    outline = null;
    select([]);
    if (name === "pointerup") selectWithin(corners);
  });
}

get("lasso").addEventListener("click", () => setLassoing(!lassoing));
get("select-none").addEventListener("click", () => select([]));
get("make-cluster").addEventListener("click", makeCluster);
get("export-selected").addEventListener("click", () => {
  exported("selected", ["path", "cluster"], selection().map((point) => [paths[point], nameOf(clusterOf[point])]));
});
cutListeners.push(() => selected && select([]));
