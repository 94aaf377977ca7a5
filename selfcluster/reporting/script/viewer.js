// One image with its nearest neighbors, which can be opened in turn.
const viewer = get("viewer");
let visited = [];

function openViewer(point) {
  if (!viewer.open) visited = [];
  visited.push(point);
  showInViewer(point);
  if (!viewer.open) viewer.showModal();
  viewer.scrollTop = 0;
}

function showInViewer(point) {
  const cluster = clusterOf[point];
  get("viewer-path").textContent = paths[point];
  get("viewer-image").setAttribute("aria-label", paths[point]);
  showThumb(get("viewer-image"), point, true);
  const facts = [
    ["Cluster", nameOf(cluster)],
    ...(labelOf && labelOf[point] ? [["Label", labels[labelOf[point] - 1]]] : []),
    // These are of the clusters that the page was made with.
    ...(isAsFound() ? [["Distance to its cluster's mean", valueOf(content.distance, distances, point).toFixed(3)]] : []),
    ...(isAsFound() ? [["Margin to the next cluster", valueOf(content.margin, margins, point).toFixed(3)]] : []),
    ...(isOutlier[point] ? [["Outlier", "yes, as one image in a hundred"]] : []),
    ...(isOdd[point] ? [["Odd", "between groups; it is in the nearest cluster"]] : []),
    ["Index", counted(indices[point])],
  ];
  get("viewer-facts").replaceChildren(
    ...facts.map(([name, value]) => made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: value }))),
  );
  showNear("viewer-neighbors", content.neighbors, neighbors, point);
  if (pixelNeighbors) showNear("viewer-pixel-neighbors", content.pixel_neighbors, pixelNeighbors, point);
  showOriginal(point);
  get("back").hidden = visited.length < 2;
}

function showNear(id, { each }, of, point) {
  get(id).replaceChildren(...strip(Array.from(of.subarray(point * each, (point + 1) * each)), "").childNodes);
}

// The image itself, where the page lies where it was made; the thumbnail stays where it does not, or until it is loaded.
const original = get("viewer-original");

function showOriginal(point) {
  original.hidden = true;
  if (content.originals) original.src = content.originals + paths[point].split("/").map(encodeURIComponent).join("/");
}
original.addEventListener("load", () => (original.hidden = false));

get("copy-path").addEventListener("click", async () => {
  getSelection().selectAllChildren(get("viewer-path")); // for Ctrl-C, where the clipboard is closed to pages from disk
  try {
    await navigator.clipboard.writeText(get("viewer-path").textContent);
    get("copy-path").textContent = "Copied";
  } catch {
    get("copy-path").textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => (get("copy-path").textContent = "Copy path"), 2500);
});
get("back").addEventListener("click", () => {
  visited.pop();
  showInViewer(visited[visited.length - 1]);
  if (visited.length < 2) get("close").focus();
});
get("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close(); // the backdrop
});
get("to-map").addEventListener("click", () => {
  const point = visited[visited.length - 1];
  viewer.close();
  goToOnMap(point);
});
get("to-cluster").addEventListener("click", () => {
  const point = visited[visited.length - 1];
  viewer.close();
  goToCluster(clusterOf[point]);
});
