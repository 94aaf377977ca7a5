// The mosaic: a tile for each cluster, with an area by its size and its most typical images. It is a squarified treemap
// (Bruls, Huizing and van Wijk, 2000).
const PHOTO_SIDE = 60;
const SMALLEST_TILE = 26;
const mosaic = get("mosaic");

// Rectangles for areas that fall, which fill a box; as near to squares as rows of them can be.
function squarified(areas, width, height) {
  const boxes = [];
  let [x, y, w, h] = [0, 0, width, height];
  while (boxes.length < areas.length) {
    const side = Math.min(w, h);
    const first = boxes.length;
    let [n, sum] = [1, areas[first]];
    const worst = (last, total) => Math.max((side * side * areas[first]) / (total * total), (total * total) / (side * side * areas[last]));
    while (first + n < areas.length && worst(first + n, sum + areas[first + n]) <= worst(first + n - 1, sum)) sum += areas[first + n++];
    const depth = sum / side;
    let along = 0;
    for (const area of areas.slice(first, first + n)) {
      const length = area / depth;
      boxes.push(w < h ? { x: x + along, y, w: length, h: depth } : { x, y: y + along, w: depth, h: length });
      along += length;
    }
    if (w < h) [y, h] = [y + depth, h - depth];
    else [x, w] = [x + depth, w - depth];
  }
  return boxes;
}

function showMosaic() {
  const [width, height] = [mosaic.clientWidth, mosaic.clientHeight];
  if (!width) return;
  const all = placesShown().sort(bySize);
  const most = Math.max(1, Math.floor((width * height) / (2 * SMALLEST_TILE * SMALLEST_TILE)));
  const shown = all.slice(0, all.length > most ? most - 1 : most);
  const left = all.slice(shown.length);
  const total = n ? clusters.reduce((sum, c) => sum + c.size, 0) : 1;
  const least = (total * SMALLEST_TILE * SMALLEST_TILE) / (width * height);
  const weights = shown.map((place) => Math.max(clusters[place].size, least));
  if (left.length) weights.push(weights[weights.length - 1]);
  const scale = (width * height) / weights.reduce((sum, weight) => sum + weight, 0);
  const boxes = squarified(weights.map((weight) => weight * scale), width, height);
  mosaic.replaceChildren(...shown.map((place, i) => tile(place, boxes[i])));
  if (left.length) mosaic.append(restTile(left.length, boxes[shown.length]));
  if (mosaic.firstChild) mosaic.firstChild.tabIndex = 0;
}

// In shares of the mosaic, which is narrower on paper.
function placed(element, box) {
  const [across, down] = [100 / mosaic.clientWidth, 100 / mosaic.clientHeight];
  Object.assign(element.style, { left: `${box.x * across}%`, top: `${box.y * down}%`, width: `${box.w * across}%`, height: `${box.h * down}%` });
  return element;
}

function tile(cluster, box) {
  const c = clusters[cluster];
  const label = c.label !== null ? c.label : "";
  const text = `${nameOf(cluster)}, ${counted(c.size)} image${c.size === 1 ? "" : "s"}${label ? `, ${Math.round(100 * c.share)} % ${label}` : ""}`;
  const element = placed(made("button", { type: "button", className: "tile", title: text, tabIndex: -1 }), box);
  element.setAttribute("aria-label", text);
  element.addEventListener("click", () => goToCluster(cluster));
  // Photos are squares that fit the shorter side; the last ones along the longer side are cut off.
  const [w, h] = [box.w - 2, box.h - 2];
  const side = Math.min(w, h) / Math.max(1, Math.round(Math.min(w, h) / PHOTO_SIDE));
  const photos = made("span", { className: "photos" });
  photos.style.gridTemplateColumns = `repeat(${Math.ceil(w / side - 0.01)}, ${side}px)`;
  photos.style.gridAutoRows = `${side}px`;
  for (const point of membersOf[cluster].slice(0, Math.ceil(w / side - 0.01) * Math.ceil(h / side - 0.01))) {
    const photo = made("span", { className: "photo" });
    showThumb(photo, point, side > content.sheets.small.side * 1.2);
    photos.append(photo);
  }
  element.append(photos);
  if (w > 64 && h > 40) element.append(made("span", { className: "caption", textContent: shortName(cluster) || counted(c.size) }));
  return element;
}

function restTile(number, box) {
  const text = `${counted(number)} smaller clusters`;
  const element = placed(made("button", { type: "button", className: "tile rest", title: text, textContent: `+${counted(number)}`, tabIndex: -1 }), box);
  element.setAttribute("aria-label", text);
  element.addEventListener("click", () => get("clusters").scrollIntoView());
  return element;
}

let mosaicTimer = 0;
cutListeners.push(showMosaic);
nameListeners.push(() => {
  clearTimeout(mosaicTimer);
  mosaicTimer = setTimeout(showMosaic, 300);
});
