// Clusters as cards: an editable name, and the most typical images, border cases and least typical images.
const CARDS_AT_A_TIME = byWidth(3, 12, 24);
const MEMBERS_AT_A_TIME = 300;
const BARS = 40;
const NO_CLUSTER = "not a cluster"; // a name like others: what is none becomes one pile

const orders = {
  size: bySize,
  cohesion: (a, b) => clusters[b].cohesion - clusters[a].cohesion || a - b,
  // Clusters with a given name come first.
  name: (a, b) => (givenName(b) !== "") - (givenName(a) !== "") || nameOf(a).localeCompare(nameOf(b), "en", { numeric: true }),
};
let listed = [];
let matchesIn = null; // number of matches in each cluster during a search, otherwise null

function card(cluster) {
  const c = clusters[cluster];
  const item = made("li", { className: "card", id: `cluster-${c.number}` });
  item.style.setProperty("--color", cssColor(cluster));
  item.dataset.cluster = cluster;
  const input = made("input", { className: "name", value: givenName(cluster), placeholder: numberedName(cluster), maxLength: 100, autocomplete: "off" });
  input.setAttribute("aria-label", `Name of cluster ${c.number}`);
  let before = { ...givenNames };
  input.addEventListener("focus", () => (before = { ...givenNames }));
  input.addEventListener("input", () => giveName(cluster, input.value));
  input.addEventListener("change", () => remember(before));
  input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  const swatch = made("span", { className: "swatch" });
  swatch.setAttribute("aria-hidden", "true");
  const size = made("span", { className: "size", textContent: `${counted(c.size)} image${c.size === 1 ? "" : "s"}` });
  item.append(made("div", { className: "card-head" }, swatch, input, size), made("p", { className: "meta", textContent: metaOf(cluster) }));
  item.append(inColumns(strip(c.typical, `Most typical images of cluster ${c.number}`), 6));
  if (c.border.length || c.least_typical.length) item.append(kinds(c));
  item.append(foot(cluster, item));
  return item;
}

function metaOf(cluster) {
  const c = clusters[cluster];
  const parts = [c.cohesion === null ? "made on the map" : `cohesion ${c.cohesion.toFixed(2)}`];
  if (c.label !== null) parts.push(`${Math.round(100 * c.share)} % ${/^\d+$/.test(c.label) ? "label " : ""}${c.label}`);
  if (givenName(cluster)) parts.push(numberedName(cluster).toLowerCase());
  if (/[\/\\:*?"<>|]|^[=+@.-]/.test(givenName(cluster))) parts.push("apply needs a name that a folder can have");
  const alike = clusters.filter((c, other) => other !== cluster && givenName(cluster) && givenName(other) === givenName(cluster));
  if (alike.length) parts.push(`one with ${alike.map((other) => other.number).join(", ")} once applied`);
  if (matchesIn) parts.push(`${counted(matchesIn[cluster])} matches`);
  return parts.join(" · ");
}

function kinds(c) {
  const element = made("div", { className: "kinds" });
  for (const [points, title] of [[c.border, "Border cases"], [c.least_typical, "Least typical"]]) {
    if (!points.length) continue;
    element.append(made("div", {}, made("p", { className: "kind", textContent: title }), inColumns(strip(points, `${title} of cluster ${c.number}`), points.length > 3 ? 4 : 3)));
  }
  return element;
}

// Sets the number of columns of a gallery.
function inColumns(element, columns) {
  element.style.setProperty("--columns", columns);
  return element;
}

function foot(cluster, item) {
  const c = clusters[cluster];
  const shown = membersOf[cluster].length;
  const all = made("button", { type: "button", className: "link", textContent: shown < c.size ? `Show ${counted(shown)} of ${counted(c.size)}` : `Show all ${counted(shown)}` });
  const onMap = made("button", { type: "button", className: "link", textContent: "On the map" });
  onMap.addEventListener("click", () => focusOnMap(cluster));
  const element = made("div", { className: "card-foot" }, all, onMap);
  const hasParts = tree && cluster < cut.length && partsOf(cut[cluster]).length > 0;
  const parting = made("button", { type: "button", className: "link", textContent: hasParts ? "Split" : "Split on the map" });
  parting.setAttribute("aria-label", hasParts ? `Split ${nameOf(cluster)} in two` : `Split on the map: select images of ${nameOf(cluster)}`);
  parting.addEventListener("click", () => (hasParts ? split(cluster) : splitOnMap(cluster)));
  element.append(parting);
  element.append(merging(cluster));
  const rejecting = made("button", { type: "button", className: "link", textContent: "Not a cluster" });
  rejecting.setAttribute("aria-label", `${nameOf(cluster)} is not a cluster`);
  rejecting.addEventListener("click", () => rename([cluster], NO_CLUSTER));
  element.append(rejecting);
  if (cluster >= cut.length) {
    const back = made("button", { type: "button", className: "link", textContent: "Put back" });
    back.setAttribute("aria-label", `Put the images of ${nameOf(cluster)} back into their clusters`);
    back.addEventListener("click", () => change(cut, drawn.filter((_, i) => cut.length + i !== cluster)));
    element.append(back);
  }
  all.addEventListener("click", () => showMembers(cluster, item, element, all));
  if (c.similar.length) {
    const similar = made("span", { className: "similar" }, "Similar: ");
    for (const number of c.similar) {
      const other = clusters.findIndex((c) => c.number === number);
      const link = made("button", { type: "button", className: "link", textContent: nameOf(other) });
      link.dataset.named = other;
      link.addEventListener("click", () => goToCluster(other));
      similar.append(link, number === c.similar[c.similar.length - 1] ? "" : ", ");
    }
    element.append(similar);
  }
  return element;
}

// A list to merge the cluster with another one, the most similar first: both get one name.
function merging(cluster) {
  const list = made("select", { className: "merge" }, made("option", { value: "", textContent: "Merge with…" }));
  list.setAttribute("aria-label", `Merge ${nameOf(cluster)} with`);
  list.addEventListener("focus", () => {
    const similar = clusters[cluster].similar.map((number) => clusters.findIndex((c) => c.number === number));
    const others = placesShown().filter((other) => other !== cluster && !similar.includes(other));
    list.length = 1;
    for (const other of [...similar, ...others]) list.append(made("option", { value: String(other), textContent: labeledName(other) }));
  });
  list.addEventListener("change", () => {
    const other = Number(list.value);
    rename([cluster, other], givenName(other) || givenName(cluster) || labeledName(other));
  });
  return list;
}

const labeledName = (cluster) => givenName(cluster) || (shortName(cluster) ? `${numberedName(cluster)}, ${shortName(cluster)}` : numberedName(cluster));

function rename(places, name) {
  remember();
  for (const place of places) giveName(place, name);
}

// How far the images are from the mean of their cluster; what is odd or an outlier stands at the far end, if it is.
function histogram(members) {
  const values = members.map((point) => valueOf(content.distance, distances, point)); // the most typical first
  const [low, high] = [values[0], values[values.length - 1]];
  const bars = Array.from({ length: BARS }, () => [0, 0]);
  members.forEach((point, i) => {
    const bar = bars[Math.min(BARS - 1, Math.floor((BARS * (values[i] - low)) / (high - low || 1)))];
    bar[0]++;
    if (isOdd[point] || isOutlier[point]) bar[1]++;
  });
  const most = Math.max(...bars.map(([all]) => all));
  const text = `Distance from the mean, ${low.toFixed(2)} to ${high.toFixed(2)}; dark: odd ones and outliers`;
  const element = made("div", { className: "histogram", role: "img", "aria-label": text });
  for (const [all, odd] of bars) {
    const [bar, part] = [made("span"), made("span")];
    bar.style.height = `${(100 * all) / most}%`;
    part.style.height = `${all ? (100 * odd) / all : 0}%`;
    bar.append(part);
    element.append(bar);
  }
  return made("div", {}, made("p", { className: "kind", textContent: text }), element);
}

function showMembers(cluster, item, before, button) {
  const old = item.querySelector(".members");
  const members = membersOf[cluster];
  if (old && old.shown >= members.length) {
    old.remove();
    button.textContent = `Show all ${counted(members.length)}`;
    return;
  }
  const shown = Math.min(members.length, (old ? old.shown : 0) + MEMBERS_AT_A_TIME);
  const box = made("div", { className: "members" });
  box.shown = shown;
  if (isAsFound() && members.length > BARS) box.append(histogram(members));
  box.append(
    made("p", { className: "kind", textContent: "Most typical first" }),
    strip(members.slice(0, shown), `Images of cluster ${clusters[cluster].number}`, "tiny", false),
  );
  if (old) old.remove();
  item.insertBefore(box, before);
  button.textContent = shown < members.length ? `Show ${counted(Math.min(MEMBERS_AT_A_TIME, members.length - shown))} more` : "Show fewer";
}

function listClusters() {
  const all = placesShown();
  const found = matchesIn ? all.filter((place) => matchesIn[place] || matchesName(place)) : all;
  listed = found.sort(orders[get("order").value]);
  get("cards").replaceChildren();
  moreCards();
}

function moreCards(upTo = get("cards").childElementCount + CARDS_AT_A_TIME) {
  const cards = get("cards");
  cards.append(...listed.slice(cards.childElementCount, upTo).map(card));
  const left = listed.length - cards.childElementCount;
  get("more").hidden = left <= 0;
  get("more").textContent = `Show ${counted(Math.min(left, CARDS_AT_A_TIME))} more of ${counted(listed.length)} clusters`;
}

function goToCluster(cluster) {
  let place = listed.indexOf(cluster);
  if (place < 0) {
    clearSearch();
    place = listed.indexOf(cluster);
  }
  if (place >= get("cards").childElementCount) moreCards(place + 1);
  const item = get(`cluster-${clusters[cluster].number}`);
  item.scrollIntoView({ block: "center" });
  item.querySelector(".name").focus({ preventScroll: true });
}

get("order").addEventListener("change", listClusters);
get("more").addEventListener("click", () => {
  const cards = get("cards");
  const first = cards.childElementCount;
  moreCards();
  cards.children[first].querySelector(".name").focus();
});
nameListeners.push((cluster) => {
  for (const link of document.querySelectorAll(`[data-named="${cluster}"]`)) link.textContent = nameOf(cluster);
  nameInTable();
  for (const item of get("cards").children) {
    const [place, input] = [Number(item.dataset.cluster), item.querySelector(".name")];
    item.querySelector(".meta").textContent = metaOf(place);
    if (input !== document.activeElement) input.value = givenName(place);
  }
});

// The table has the clusters that the page was made with, and is hidden while others are shown.
function nameInTable() {
  if (!isAsFound()) return;
  for (const cell of document.querySelectorAll("th[data-cluster]")) cell.textContent = nameOf(Number(cell.dataset.cluster));
}

cutListeners.push(listClusters, nameInTable);
