// One search over names of clusters, labels and paths: it shows the images found, the clusters they are in, and lights them on the map.
const FOUND_AT_MOST = 60;
const lowered = [];
let query = "";

const matchesName = (place) => query !== "" && [nameOf(place), content.clusters[place].label || ""].some((text) => text.toLowerCase().includes(query));

function search() {
  query = get("query").value.trim().toLowerCase();
  if (query === "") {
    [matchesIn, litBySearch] = [null, null];
    get("found").hidden = true;
  } else {
    if (!lowered.length) for (const path of paths) lowered.push(path.toLowerCase());
    litBySearch = new Uint8Array(n);
    matchesIn = new Array(content.clusters.length).fill(0);
    const named = content.clusters.map((_, place) => matchesName(place));
    const found = [];
    for (let i = 0; i < n; i++) {
      const byPath = lowered[i].includes(query) || (labelOf && labelOf[i] && labels[labelOf[i] - 1].toLowerCase().includes(query));
      if (byPath) {
        found.push(i);
        matchesIn[clusterOf[i]]++;
      }
      if (byPath || named[clusterOf[i]]) litBySearch[i] = 1;
    }
    showFound(found, named.filter(Boolean).length);
  }
  listClusters();
  hover(-1);
  redraw();
}

function showFound(found, nNamed) {
  const clusters = matchesIn.filter(Boolean).length;
  const more = found.length > FOUND_AT_MOST ? `; the first ${FOUND_AT_MOST} are shown` : "";
  const byName = nNamed ? ` ${counted(nNamed)} cluster${nNamed === 1 ? " goes" : "s go"} by it.` : "";
  const text = found.length
    ? `${counted(found.length)} image${found.length === 1 ? "" : "s"} in ${counted(clusters)} cluster${clusters === 1 ? "" : "s"}${more}.${byName}`
    : `No image has this in its path.${byName}`;
  const clear = made("button", { type: "button", className: "link", textContent: "Clear the search" });
  clear.addEventListener("click", () => {
    clearSearch();
    get("query").focus();
  });
  get("found").replaceChildren(
    made("p", {}, text, " ", clear),
    strip(found.slice(0, FOUND_AT_MOST), "Images found", "small"),
  );
  get("found").hidden = false;
  get("said").textContent = text;
}

function clearSearch() {
  get("query").value = "";
  search();
}

let searchTimer = 0;
get("query").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(search, 120);
});
get("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    clearTimeout(searchTimer);
    search();
    get("clusters").scrollIntoView();
  } else if (event.key === "Escape") clearSearch();
});
