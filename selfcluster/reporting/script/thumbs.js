// Thumbnails are background images, positioned in a sheet. A sheet is decoded when it is first needed.
const sheetAddresses = new Map();

function sheetAddress(size, sheet) {
  const id = `sheet-${size}-${sheet}`;
  if (!sheetAddresses.has(id)) {
    const element = get(id);
    sheetAddresses.set(id, URL.createObjectURL(new Blob([bytesOf(element.textContent)], { type: "image/webp" })));
    element.remove();
  }
  return sheetAddresses.get(id);
}

// The sheet as an image that a canvas can draw, or null until it is loaded.
const sheetImages = new Map();

function sheetImage(size, sheet) {
  const address = sheetAddress(size, sheet);
  if (!sheetImages.has(address)) {
    const image = new Image();
    image.addEventListener("load", redraw);
    image.src = address;
    sheetImages.set(address, image);
  }
  const image = sheetImages.get(address);
  return image.complete && image.naturalWidth ? image : null;
}

// The position of a point's thumbnail: sheet, row and column, and the number of rows of the sheet.
function placeOfThumb(point, wantLarge) {
  const size = wantLarge && largePlace[point] ? "large" : "small";
  const { side, columns } = content.sheets[size];
  const place = size === "large" ? largePlace[point] - 1 : point;
  const each = columns * columns;
  const sheet = Math.floor(place / each);
  const within = place % each;
  const total = size === "large" ? nLarge : n;
  const rows = Math.ceil(Math.min(each, total - sheet * each) / columns);
  return { size, sheet, side, columns, rows, row: Math.floor(within / columns), column: within % columns };
}

let nLarge = 0;
for (let i = 0; i < n; i++) nLarge = Math.max(nLarge, largePlace[i]);

const shownAt = new WeakMap(); // what showThumb was called with, by element

function showThumb(element, point, wantLarge) {
  shownAt.set(element, [point, wantLarge]);
  const { size, sheet, columns, rows, row, column } = placeOfThumb(point, wantLarge);
  element.style.backgroundImage = `url("${sheetAddress(size, sheet)}")`;
  element.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
  element.style.backgroundPosition = `${columns > 1 ? (100 * column) / (columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
}

// On paper every thumbnail is a picture of its own: a printer would get the whole sheet for each.
function cutOut(element) {
  const [point, wantLarge] = shownAt.get(element);
  const { size, sheet, side, row, column } = placeOfThumb(point, wantLarge);
  const image = sheetImage(size, sheet);
  if (!image) return;
  const own = made("canvas", { width: side, height: side });
  own.getContext("2d").drawImage(image, column * side, row * side, side, side, 0, 0, side, side);
  Object.assign(element.style, { backgroundImage: `url("${own.toDataURL("image/jpeg", 0.85)}")`, backgroundSize: "100% 100%", backgroundPosition: "0 0" });
}

const nameOfPoint = (point) => `${paths[point]}, ${nameOf(clusterOf[point])}`;

function thumb(point, wantLarge = true) {
  const button = made("button", { type: "button", className: "thumb", title: paths[point], tabIndex: -1 });
  button.setAttribute("aria-label", paths[point]);
  button.dataset.point = point;
  showThumb(button, point, wantLarge);
  return button;
}

// A row of thumbnails is one Tab stop; arrow keys move within it.
function strip(points, label, className = "", wantLarge = true) {
  const element = made("div", { className: `strip ${className}`, role: "group" }, ...points.map((point) => thumb(point, wantLarge)));
  element.setAttribute("aria-label", label);
  if (element.firstChild) element.firstChild.tabIndex = 0;
  return element;
}

document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const next = step && event.target.matches(".strip > .thumb, .mosaic > .tile") && event.target[step > 0 ? "nextElementSibling" : "previousElementSibling"];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.thumb[data-point]");
  if (button) openViewer(Number(button.dataset.point));
});
