// The legend of the map: what its colors mean, the largest first. A cluster that is chosen there is shown alone.
const MOST_IN_LEGEND = byWidth(6, 16, 16);

function legendOfLabels() {
  const sizes = new Uint32Array(labels.length);
  for (let i = 0; i < n; i++) if (labelOf[i]) sizes[labelOf[i] - 1]++;
  return [...sizes.keys()].sort((a, b) => sizes[b] - sizes[a]).map((label) => ({ place: label, name: labels[label], size: sizes[label] }));
}

const legendOfClusters = () => placesShown().sort(bySize).map((place) => ({ place, name: shortName(place) || numberedName(place), size: clusters[place].size }));

function inLegend({ place, name, size }) {
  const words = [made("span", { className: "swatch" }), name, made("small", { textContent: counted(size) })];
  const item = colorBy === "label" ? made("span", {}, ...words) : made("button", { type: "button", value: String(place) }, ...words);
  item.style.setProperty("--color", cssColor(place));
  if (colorBy === "cluster") {
    item.setAttribute("aria-pressed", focused === place);
    item.addEventListener("click", () => focusOn(focused === place ? -1 : place));
  }
  return made("li", {}, item);
}

function showLegend() {
  const all = colorBy === "label" ? legendOfLabels() : legendOfClusters();
  const shown = all.slice(0, MOST_IN_LEGEND);
  get("legend").replaceChildren(...shown.map(inLegend));
  if (all.length > shown.length) get("legend").append(made("li", { className: "soft", textContent: `and ${counted(all.length - shown.length)} smaller ones` }));
}

if (get("color")) get("color").addEventListener("change", showLegend);
cutListeners.push(showLegend);
nameListeners.push(() => colorBy === "cluster" && showLegend());
