// The map: a dot for each image, or as many thumbnails as fit. Dots are drawn pixel by pixel into one image, which for 50,000 of them is
// much faster than drawing circles.
const plot = get("plot");
const canvas = get("canvas");
const pen = canvas.getContext("2d");
const view = { scale: 1, x: 0.5, y: 0.5, width: 0, height: 0, ratio: 1 }; // x and y: the point of the map at the center
const MOST_ZOOM = 400;
const thumbSide = () => Math.min(84, 34 * view.scale ** 0.3); // side of a thumbnail on the map, in CSS pixels

const NEAR = 5; // scale from which dots become images, unless it was chosen otherwise
let chosenImages = null; // whether images are drawn, once it was chosen
let asImages = false;
let colorBy = "cluster";
let focused = -1; // the only cluster shown, or -1
let matched = null; // whether each point matches the search, or null
let selected = null; // whether each point was selected by the lasso, or null
let hovered = -1;
let drawnThumbs = new Map(); // point by cell, if thumbnails are drawn
let picture = null;
let pixels = null;
let groupColors = null;

const isHighlighted = (i) => (focused < 0 || clusterOf[i] === focused) && (!matched || matched[i] === 1) && (!selected || selected[i] === 1);
const groupOf = (i) => (colorBy === "label" ? (labelOf[i] ? labelOf[i] - 1 : labels.length) : clusterOf[i]);

// CSS pixels per unit of the map, down and across, all of which fits at scale 1. A wide frame is filled by stretching: distances on the map
// say who is near, not how far.
const unit = () => Math.min(view.width, view.height) * 0.94 * view.scale;
const stretch = () => Math.min(1.6, Math.max(1, view.width / Math.max(1, view.height)));
const across = () => unit() * stretch();
const xOnScreen = (x) => (x / 65535 - view.x) * across() + view.width / 2;
const yOnScreen = (y) => (view.y - y / 65535) * unit() + view.height / 2;
const screenX = (i) => xOnScreen(xs[i]);
const screenY = (i) => yOnScreen(ys[i]);

// Little-endian, as typed arrays are on all current machines.
const asPixel = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;

function prepareColors() {
  const k = colorBy === "label" ? labels.length + 1 : clusters.length;
  groupColors = new Int32Array(k);
  for (let i = 0; i < k; i++) groupColors[i] = asPixel(rgbOf(i));
  if (colorBy === "label") groupColors[labels.length] = asPixel([140, 140, 140]);
}

// The pixels of a round dot around its center: those that are fully covered, and those at the rim with their coverage.
function dotOf(radius, width) {
  const whole = [];
  const rim = [];
  const reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const covered = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      if (covered > 0.95) whole.push(y * width + x);
      else if (covered > 0.05) rim.push(y * width + x, Math.round(covered * 256));
    }
  }
  return { whole, rim, reach };
}

function setDot(dot, at, color) {
  for (const offset of dot.whole) pixels[at + offset] = color;
  const r = color & 255;
  const g = (color >> 8) & 255;
  const b = (color >> 16) & 255;
  for (let i = 0; i < dot.rim.length; i += 2) {
    const place = at + dot.rim[i];
    const share = dot.rim[i + 1];
    const old = pixels[place];
    const mix = (now, before) => (now * share + before * (256 - share)) >> 8;
    pixels[place] = (255 << 24) | (mix(b, (old >> 16) & 255) << 16) | (mix(g, (old >> 8) & 255) << 8) | mix(r, old & 255);
  }
}

function drawDots(radius) {
  const { width, height } = canvas;
  if (!picture || picture.width !== width || picture.height !== height) {
    picture = pen.createImageData(width, height);
    pixels = new Int32Array(picture.data.buffer);
  }
  const [paper, faint] = isDark() ? [asPixel([26, 28, 31]), asPixel([50, 53, 58])] : [asPixel([255, 255, 255]), asPixel([228, 228, 224])];
  pixels.fill(paper);
  const dot = dotOf(radius * view.ratio, width);
  const [sizeX, sizeY] = [across() * view.ratio, unit() * view.ratio];
  const left = width / 2 - view.x * sizeX;
  const top = height / 2 + view.y * sizeY;
  const [eachX, eachY] = [sizeX / 65535, sizeY / 65535];
  const allHighlighted = focused < 0 && !matched && !selected;
  // Highlighted points are covered by thumbnails, if these are drawn.
  const passes = [...(allHighlighted ? [] : [false]), ...(asImages ? [] : [true])];
  for (const highlighted of passes) {
    for (let i = 0; i < n; i++) {
      if (!allHighlighted && isHighlighted(i) !== highlighted) continue;
      const px = (left + xs[i] * eachX) | 0;
      const py = (top - ys[i] * eachY) | 0;
      if (px < dot.reach || py < dot.reach || px >= width - dot.reach || py >= height - dot.reach) continue;
      setDot(dot, py * width + px, highlighted ? groupColors[groupOf(i)] : faint);
    }
  }
  pen.putImageData(picture, 0, 0);
}

// Points by distance to their centroid, so that the most typical point of a cell is drawn.
let byTypicality = null;

function drawThumbs() {
  byTypicality ||= Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => distances[a] - distances[b]);
  drawnThumbs = new Map();
  const reach = thumbSide();
  // Cells are fixed to the map, not to the screen, so that panning does not change the thumbnails.
  for (const i of byTypicality) {
    if (!isHighlighted(i)) continue;
    const x = screenX(i);
    const y = screenY(i);
    if (x < -reach || y < -reach || x > view.width + reach || y > view.height + reach) continue;
    const cell = cellOf(xs[i], ys[i]);
    if (!drawnThumbs.has(cell)) drawnThumbs.set(cell, i);
  }
  const side = (reach - 2) * view.ratio;
  for (const i of drawnThumbs.values()) {
    const place = placeOfThumb(i, side > content.sheets.small.side * 1.3);
    const image = sheetImage(place.size, place.sheet);
    if (!image) continue;
    const [x, y] = cellCorner(i);
    const from = place.side;
    pen.drawImage(image, place.column * from, place.row * from, from, from, x * view.ratio, y * view.ratio, side, side);
  }
}

const columnOf = (x) => Math.floor(((x / 65535) * across()) / thumbSide());
const rowOf = (y) => Math.floor(((y / 65535) * unit()) / thumbSide());
const cellOf = (x, y) => columnOf(x) * 65536 + rowOf(y);

function cellCorner(i) {
  const side = thumbSide();
  return [columnOf(xs[i]) * side - view.x * across() + view.width / 2 + 1, view.y * unit() - (rowOf(ys[i]) + 1) * side + view.height / 2 + 1];
}

let isScheduled = false;

// Draws the map once per frame, however often this is called.
function redraw() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    draw();
  });
}

function draw() {
  if (!view.width) return;
  if (!groupColors) prepareColors();
  const smallest = n > 20000 ? 1.3 : n > 4000 ? 1.9 : n > 500 ? 2.6 : 4;
  asImages = chosenImages ?? view.scale >= NEAR;
  get("dots").setAttribute("aria-pressed", asImages);
  drawDots(Math.min(6, smallest * view.scale ** 0.4));
  if (asImages) drawThumbs();
  drawCaptions();
  drawLasso();
  if (hovered >= 0) ring(hovered);
}

function ring(i) {
  pen.strokeStyle = getComputedStyle(plot).color;
  pen.lineWidth = 2 * view.ratio;
  pen.beginPath();
  if (asImages && drawnThumbs.get(cellOf(xs[i], ys[i])) === i) {
    const [x, y] = cellCorner(i);
    pen.rect(x * view.ratio, y * view.ratio, (thumbSide() - 2) * view.ratio, (thumbSide() - 2) * view.ratio);
  } else pen.arc(screenX(i) * view.ratio, screenY(i) * view.ratio, 8 * view.ratio, 0, 2 * Math.PI);
  pen.stroke();
}

// The point at a position of the screen, or -1.
function pointAt(x, y, within = 14) {
  if (asImages) {
    const onMap = [((x - view.width / 2) / across() + view.x) * 65535, (view.y - (y - view.height / 2) / unit()) * 65535];
    const there = drawnThumbs.get(cellOf(...onMap));
    if (there !== undefined) return there;
  }
  let best = -1;
  let nearest = within * within;
  const [left, top] = [xOnScreen(0) - x, yOnScreen(0) - y];
  const [eachX, eachY] = [across() / 65535, unit() / 65535];
  for (let i = 0; i < n; i++) {
    const dx = left + xs[i] * eachX;
    const dy = top - ys[i] * eachY;
    const d = dx * dx + dy * dy;
    if (d < nearest && isHighlighted(i)) [best, nearest] = [i, d];
  }
  return best;
}

function zoomBy(factor, x = view.width / 2, y = view.height / 2) {
  const before = unit();
  view.scale = Math.min(MOST_ZOOM, Math.max(1, view.scale * factor));
  const after = unit();
  // The position under the pointer stays fixed.
  view.x += ((x - view.width / 2) * (1 / before - 1 / after)) / stretch();
  view.y -= (y - view.height / 2) * (1 / before - 1 / after);
  settle();
}

function moveBy(dx, dy) {
  view.x -= dx / across();
  view.y += dy / unit();
  settle();
}

function settle() {
  if (view.scale === 1) [view.x, view.y] = [0.5, 0.5];
  view.x = Math.min(1, Math.max(0, view.x));
  view.y = Math.min(1, Math.max(0, view.y));
  plot.classList.toggle("zoomed", view.scale > 1);
  hover(-1);
  redraw();
}

function hover(i) {
  if (i === hovered) return;
  hovered = i;
  plot.classList.toggle("on", i >= 0);
  const tip = get("tip");
  tip.hidden = i < 0;
  if (i >= 0) {
    const label = labelOf && labelOf[i] ? ` · ${labels[labelOf[i] - 1]}` : "";
    const image = made("div", { className: "thumb" });
    showThumb(image, i, true);
    tip.replaceChildren(image, made("b", { textContent: nameOf(clusterOf[i]) + label }), made("span", { textContent: paths[i] }));
    const x = screenX(i);
    const y = screenY(i);
    const [w, h] = [tip.offsetWidth, tip.offsetHeight];
    const left = x + 16 + w < view.width ? x + 16 : Math.max(4, x - 16 - w);
    tip.style.transform = `translate(${left}px, ${Math.min(Math.max(4, y - h / 2), Math.max(4, view.height - h - 4))}px)`;
  }
  redraw();
}

function measurePlot() {
  view.width = plot.clientWidth;
  view.height = plot.clientHeight;
  view.ratio = Math.min(2, devicePixelRatio || 1);
  canvas.width = Math.round(view.width * view.ratio);
  canvas.height = Math.round(view.height * view.ratio);
  redraw();
}

// Shows one cluster alone, or, with -1, all.
function focusOn(cluster) {
  focused = cluster;
  get("focus").value = cluster < 0 ? "" : String(cluster);
  for (const item of get("legend").querySelectorAll("button")) item.setAttribute("aria-pressed", Number(item.value) === cluster);
  redraw();
}

function focusOnMap(cluster) {
  focusOn(cluster);
  const [left, right] = middleOf(membersOf[cluster].map((i) => xs[i] / 65535));
  const [low, high] = middleOf(membersOf[cluster].map((i) => ys[i] / 65535));
  view.scale = Math.min(8, Math.max(1, 0.5 / Math.max(right - left, high - low, 0.01)));
  [view.x, view.y] = [(left + right) / 2, (low + high) / 2];
  settle();
  get("map").scrollIntoView();
}

// The range of the middle 90 % of the values.
function middleOf(values) {
  values.sort((a, b) => a - b);
  const at = (share) => values[Math.round(share * (values.length - 1))];
  return [at(0.05), at(0.95)];
}

function goToOnMap(point) {
  focusOn(-1);
  view.scale = Math.max(view.scale, 6);
  [view.x, view.y] = [xs[point] / 65535, ys[point] / 65535];
  settle();
  get("map").scrollIntoView();
  plot.focus({ preventScroll: true });
  hover(point);
}

get("in").addEventListener("click", () => zoomBy(1.6));
get("out").addEventListener("click", () => zoomBy(1 / 1.6));
get("all").addEventListener("click", () => zoomBy(0));
get("dots").addEventListener("click", () => {
  chosenImages = !asImages;
  redraw();
});
get("focus").addEventListener("change", (event) => focusOn(event.target.value === "" ? -1 : Number(event.target.value)));
if (get("color")) {
  get("color").addEventListener("change", (event) => {
    colorBy = event.target.value;
    prepareColors();
    redraw();
  });
}
function listFocus() {
  get("focus").length = 1;
  for (const i of placesShown()) {
    const option = made("option", { value: String(i), textContent: nameOf(i) });
    option.dataset.named = i;
    get("focus").append(option);
  }
}
listFocus();
cutListeners.push(() => {
  focused = -1;
  listFocus();
  prepareColors();
  hover(-1);
  redraw();
});
nameListeners.push(() => hovered >= 0 && hover(-1));
