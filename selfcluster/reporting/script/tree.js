// The clusters cut anew: coarser, finer, one of them in two, or of images selected on the map. A cluster is a node of the tree of clusters,
// or, after its images were regrouped by hand, one that the page was made with. Names belong to nodes, so they return with them.
const tree = content.tree;
const nLeaves = tree ? (tree.sizes.length + 1) / 2 : 0;
const merges = tree && unpacked(tree.merges);
const leafOf = tree && unpacked(tree.leaf);
const directions = tree && new Int8Array(bytesOf(tree.directions).buffer);
const products = tree && unpacked(tree.products);
const CUT_STORE = `selfcluster-cut-${content.key}`;
const cutListeners = [];

const childrenOf = (node) => (node < nLeaves ? [] : [merges[2 * (node - nLeaves)], merges[2 * (node - nLeaves) + 1]]);

function leavesOf(id) {
  if (id < 0) return tree.given.flatMap((number, leaf) => (number === content.clusters[-id - 1].number ? [leaf] : []));
  const [leaves, open] = [[], [id]];
  while (open.length) {
    const node = open.pop();
    if (node < nLeaves) leaves.push(node);
    else open.push(...childrenOf(node));
  }
  return leaves;
}

// The two parts of a node that have images, or none.
function partsOf(id) {
  if (id < 0) return [];
  const parts = childrenOf(id).filter((node) => tree.sizes[node]);
  return parts.length === 1 ? partsOf(parts[0]) : parts;
}

// The place of the cluster that the page was made with at each node that is one.
const foundAt = new Map();
if (tree) {
  const places = new Map(content.clusters.map((c, place) => [c.number, place]));
  const nLeavesOf = content.clusters.map(() => 0);
  const [owner, nWithin] = [[], []]; // of each node: the only cluster of its leaves, -1 for none, null for several; its leaves with images
  for (const number of tree.given) if (number >= 0) nLeavesOf[places.get(number)]++;
  for (let node = 0; node < tree.sizes.length; node++) {
    if (node < nLeaves) [owner[node], nWithin[node]] = tree.given[node] < 0 ? [-1, 0] : [places.get(tree.given[node]), 1];
    else {
      const [a, b] = childrenOf(node);
      owner[node] = owner[a] === owner[b] || owner[b] === -1 ? owner[a] : owner[a] === -1 ? owner[b] : null;
      nWithin[node] = nWithin[a] + nWithin[b];
    }
    const place = owner[node];
    if (place !== null && place >= 0 && nWithin[node] === nLeavesOf[place]) foundAt.set(node, place);
  }
}
const nodeOfFound = new Map([...foundAt].map(([node, place]) => [place, node]));
const asFound = content.clusters.map((_, place) => nodeOfFound.get(place) ?? -place - 1);
let cut = asFound;
let drawn = []; // clusters made of images selected on the map, each { id, points }: they come after those of the cut, which lose the images
const isAsFound = () => cut === asFound && !drawn.length;

function cutTo(k) {
  let nodes = [tree.sizes.length - 1];
  while (nodes.length < k) {
    // The last merge is undone first.
    const last = Math.max(...nodes.filter((node) => partsOf(node).length));
    if (last < 0) break;
    nodes = [...nodes.filter((node) => node !== last), ...partsOf(last)];
  }
  return nodes;
}

function clusterAt(id, number) {
  const place = id < 0 ? -id - 1 : foundAt.get(id);
  if (place !== undefined) return { ...content.clusters[place], key: String(content.clusters[place].number) };
  return {
    key: `node-${id}`, number, name: "", size: tree.sizes[id], cohesion: tree.cohesion[id], label: tree.labels[id], share: tree.shares[id],
    similar: [], typical: [], border: [], least_typical: [],
  };
}

// The sum of some points' directions, and how far a point goes along it.
function directionOf(points) {
  const sum = new Float64Array(tree.n_directions);
  for (const point of points) for (let d = 0; d < sum.length; d++) sum[d] += directions[point * sum.length + d];
  return sum;
}

function along(point, sum) {
  let product = 0;
  for (let d = 0; d < sum.length; d++) product += directions[point * sum.length + d] * sum[d];
  return product;
}

// Fills the galleries of a new cluster: the most typical images are those that go farthest in its mean direction.
function fill(c, members) {
  if (tree) {
    const sum = directionOf(members);
    const typicality = new Map(members.map((point) => [point, along(point, sum)]));
    members.sort((a, b) => typicality.get(b) - typicality.get(a));
  }
  c.typical = members.slice(0, 12);
  c.least_typical = members.slice(12).slice(-8).reverse();
}

function findSimilar(placeOfLeaf) {
  const k = cut.length;
  const sums = new Float64Array(k * k);
  for (let i = 0; i < nLeaves; i++) {
    if (!tree.sizes[i]) continue;
    for (let j = 0; j < nLeaves; j++) if (tree.sizes[j]) sums[placeOfLeaf[i] * k + placeOfLeaf[j]] += valueOf(tree.products, products, i * nLeaves + j);
  }
  const length = (i) => Math.sqrt(Math.max(sums[i * k + i], 1e-12));
  for (let i = 0; i < k; i++) {
    const others = cut.map((_, j) => j).filter((j) => j !== i && clusters[j].size);
    others.sort((a, b) => sums[i * k + b] / length(b) - sums[i * k + a] / length(a));
    clusters[i].similar = others.slice(0, 3).map((j) => clusters[j].number);
  }
}

// Moves the drawn images out of the clusters that have them.
function takeDrawn(number) {
  const losing = new Set();
  for (const { id, points } of drawn) {
    for (const point of points) {
      clusters[clusterOf[point]].size--;
      losing.add(clusterOf[point]);
      clusterOf[point] = clusters.length;
    }
    clusters.push({
      key: `drawn-${id}`, number: number++, name: "", size: points.length, cohesion: null, label: null, share: 0,
      similar: [], typical: [], border: [], least_typical: [],
    });
  }
  for (const place of losing) {
    const c = clusters[place];
    c.label = null; // of the images it had
    for (const gallery of ["typical", "border", "least_typical"]) c[gallery] = c[gallery].filter((point) => clusterOf[point] === place);
  }
}

// Shows other clusters: nodes, or clusters of the page as -1 - place, and those that were drawn.
function arrange(ids, groups = drawn) {
  [cut, drawn] = [ids, groups];
  const firstNew = Math.max(...content.clusters.map((c) => c.number)) + 1;
  const isNew = (id) => id >= 0 && !foundAt.has(id);
  const ofSize = ids.filter(isNew).sort((a, b) => tree.sizes[b] - tree.sizes[a]);
  clusters = ids.map((id) => clusterAt(id, firstNew + ofSize.indexOf(id)));
  const placeOfLeaf = new Uint16Array(nLeaves);
  if (tree) ids.forEach((id, place) => leavesOf(id).forEach((leaf) => (placeOfLeaf[leaf] = place)));
  for (let i = 0; i < n; i++) clusterOf[i] = tree ? placeOfLeaf[leafOf[i]] : clusterAsFound[i];
  takeDrawn(firstNew + ofSize.length);
  collectMembers();
  clusters.forEach((c, place) => (!c.typical.length || isNew(ids[place])) && fill(c, membersOf[place]));
  if (ids !== asFound) findSimilar(placeOfLeaf);
  try {
    if (isAsFound()) localStorage.removeItem(CUT_STORE);
    else localStorage.setItem(CUT_STORE, JSON.stringify({ ids, drawn }));
  } catch {
    get("not-kept").hidden = false;
  }
  showCut();
  for (const listener of cutListeners) listener();
}

function rememberCut() {
  const before = [cut, drawn];
  canBeUndone(() => arrange(...before));
}

function change(ids, groups = drawn) {
  rememberCut();
  arrange(ids, groups);
}

function split(cluster) {
  const parts = partsOf(cut[cluster]);
  change(cut.flatMap((id, place) => (place === cluster ? parts : [id])));
  goToCluster(cluster);
}

function showCut() {
  const number = placesShown().length;
  get("cut").value = cut.length;
  get("cut-n").textContent = counted(number);
  get("n-clusters").textContent = `${counted(number)} cluster${number === 1 ? "" : "s"}`;
  get("as-found").hidden = false;
  get("as-found").disabled = isAsFound();
  get("map-table").hidden = !isAsFound();
}

// Whether each image is in just one of the clusters.
function isWhole(ids) {
  if (!tree) return JSON.stringify(ids) === JSON.stringify(asFound);
  const leaves = ids.flatMap(leavesOf);
  return new Set(leaves).size === leaves.length && leaves.filter((leaf) => tree.sizes[leaf]).length === tree.given.filter((number) => number >= 0).length;
}

function restoreCut() {
  try {
    const { ids, drawn } = JSON.parse(localStorage.getItem(CUT_STORE) || "null");
    const points = drawn.flatMap((group) => group.points);
    if (new Set(points).size === points.length && points.every((point) => clusterOf[point] !== undefined) && isWhole(ids)) {
      arrange(JSON.stringify(ids) === JSON.stringify(asFound) ? asFound : ids, drawn);
    }
  } catch {
    // Nothing is stored, or it is of another version: the clusters stay as they were found.
  }
}

if (tree) {
  for (const part of document.querySelectorAll("#cut-tools [hidden]")) part.hidden = false;
  get("cut").max = Math.min(tree.sizes.slice(0, nLeaves).filter(Boolean).length, Math.max(100, 4 * content.clusters.length));
  showCut();
  let isMoving = false;
  get("cut").addEventListener("input", () => {
    if (!isMoving) rememberCut();
    isMoving = true;
    arrange(cutTo(Number(get("cut").value)));
  });
  get("cut").addEventListener("change", () => (isMoving = false));
}
get("as-found").addEventListener("click", () => change(asFound, []));

get("undo").addEventListener("click", () => {
  earlier.pop()();
  get("undo").disabled = !earlier.length;
});
