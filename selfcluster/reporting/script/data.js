// The data of the page, unpacked: a column is a typed array with a value for each point (an image on the page).
const content = JSON.parse(document.getElementById("content").textContent);
const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpacked(column) {
  return new KINDS[column.kind](bytesOf(column.base64).buffer);
}

const clusterAsFound = unpacked(content.cluster);
const clusterOf = Uint16Array.from(clusterAsFound); // place of its cluster among those shown
const n = clusterOf.length;
const xs = unpacked(content.x);
const ys = unpacked(content.y);
const distances = unpacked(content.distance);
const margins = unpacked(content.margin);
const indices = unpacked(content.index);
const isOutlier = unpacked(content.is_outlier);
const isOdd = unpacked(content.is_odd);
const neighbors = unpacked(content.neighbors);
const pixelNeighbors = content.pixel_neighbors && unpacked(content.pixel_neighbors);
const largePlace = unpacked(content.large);
const labels = content.labels || [];
const labelOf = content.label ? unpacked(content.label) : null;

function valueOf(column, values, point) {
  return column.low + column.step * values[point];
}

// A path is stored without the part that it shares with the previous path.
const paths = [];
{
  const shared = unpacked(content.shared);
  let previous = "";
  for (let i = 0; i < n; i++) paths.push((previous = previous.slice(0, shared[i]) + content.paths[i]));
}

// The clusters shown: those that the page was made with, or others from the tree.
let clusters = content.clusters.map((c) => ({ ...c, key: String(c.number) }));
let membersOf = [];

// The points of each cluster, the most typical first.
function collectMembers() {
  membersOf = clusters.map(() => []);
  for (let i = 0; i < n; i++) membersOf[clusterOf[i]].push(i);
  for (const members of membersOf) members.sort((a, b) => distances[a] - distances[b]);
}
collectMembers();

// A phone or a tablet shows less at a time, so that its page stays short.
const byWidth = (phone, tablet, desktop) =>
  matchMedia("(max-width: 560px)").matches ? phone : matchMedia("(max-width: 1000px)").matches ? tablet : desktop;

const get = (id) => document.getElementById(id);

// Creates an element. Text is never parsed as markup.
function made(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const bySize = (a, b) => clusters[b].size - clusters[a].size || a - b;
const placesShown = () => clusters.map((_, place) => place).filter((place) => clusters[place].size);
const counted = (number) => number.toLocaleString("en");
