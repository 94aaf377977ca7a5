// Search of cluster names, labels and paths: shows the images found and their clusters, and highlights them on the map.
const MAX_FOUND = 60;
const lowered = [];
let query = "";

const matchesName = (place) => query !== "" && [nameOf(place), clusters[place].label || ""].some((text) => text.toLowerCase().includes(query));

function search() {
  query = get("query").value.trim().toLowerCase();
  if (query === "") {
    [matchesIn, matched] = [null, null];
    get("found").hidden = true;
  } else {
    if (!lowered.length) for (const path of paths) lowered.push(path.toLowerCase());
    matched = new Uint8Array(n);
    matchesIn = new Array(clusters.length).fill(0);
    const named = clusters.map((_, place) => matchesName(place));
    const found = [];
    for (let i = 0; i < n; i++) {
      const byPath = lowered[i].includes(query) || (labelOf && labelOf[i] && labels[labelOf[i] - 1].toLowerCase().includes(query));
      if (byPath) {
        found.push(i);
        matchesIn[clusterOf[i]]++;
      }
      if (byPath || named[clusterOf[i]]) matched[i] = 1;
    }
    showFound(found, named.filter(Boolean).length);
  }
  listClusters();
  hover(-1);
  redraw();
}

function showFound(found, nNamed) {
  const clusters = matchesIn.filter(Boolean).length;
  const more = found.length > MAX_FOUND ? `; the first ${MAX_FOUND} are shown` : "";
  const byName = nNamed ? ` ${counted(nNamed)} cluster name${nNamed === 1 ? " matches" : "s match"}.` : "";
  const text = found.length
    ? `${counted(found.length)} image${found.length === 1 ? "" : "s"} in ${counted(clusters)} cluster${clusters === 1 ? "" : "s"}${more}.${byName}`
    : `No path${labelOf ? " or label" : ""} matches.${byName}`;
  const clear = made("button", { type: "button", className: "link", textContent: "Clear search" });
  clear.addEventListener("click", () => {
    clearSearch();
    get("query").focus();
  });
  get("found").replaceChildren(
    made("p", {}, text, " ", clear),
    strip(found.slice(0, MAX_FOUND), "Images found", "small"),
  );
  get("found").hidden = false;
  get("status").textContent = text;
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
cutListeners.push(() => query !== "" && search());
