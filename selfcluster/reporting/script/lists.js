// Copies side by side, with the one to keep, and the images that do not belong; both as lists to export.
const GROUPS_AT_A_TIME = byWidth(2, 6, 12);
const STRAYS_AT_A_TIME = byWidth(8, 36, 42);

function sized([width, height, bytes]) {
  const parts = [];
  if (width) parts.push(`${width} × ${height}`);
  if (bytes) parts.push(bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
  return parts.join(", ");
}

// A path that breaks after the names of its folders.
const brokenAfterFolders = (path) => path.split(/(?<=\/)/).flatMap((part) => [part, made("wbr")]);

function copyGroup(group, number) {
  const list = made("ul", { className: group.points.length > 2 ? "copies many" : "copies" });
  group.points.forEach((point, i) => {
    const words = made("div", { className: "words" }, made("b", { textContent: i === group.keep ? "keep" : group.kinds[i] || (i ? "copy" : "first") }));
    if (i === group.keep && group.kinds[i]) words.append(` ${group.kinds[i]}`);
    words.append(made("span", { className: "path" }, ...brokenAfterFolders(paths[point])), made("span", { textContent: sized(group.sizes[i]) }));
    list.append(made("li", { className: i === group.keep ? "keep" : "" }, thumb(point), words));
  });
  for (const button of list.querySelectorAll(".thumb")) button.tabIndex = 0;
  list.setAttribute("aria-label", `Copies, group ${number + 1}, ${group.n} images`);
  if (group.n > group.points.length) list.append(made("li", { className: "soft", textContent: `and ${counted(group.n - group.points.length)} more` }));
  return list;
}

// Fills a box by and by; the button shows how many are left.
function byAndBy(box, button, elements, step, what) {
  const more = () => {
    const shown = box.childElementCount;
    box.append(...elements.slice(shown, shown + step).map((make) => make()));
    const left = elements.length - box.childElementCount;
    button.hidden = left <= 0;
    button.textContent = `Show ${counted(Math.min(left, step))} more ${what}`;
  };
  button.addEventListener("click", more);
  more();
}

function exported(suffix, head, rows) {
  const lines = [head, ...rows].map((cells) => cells.map((cell) => quoted(neutralized(String(cell)))).join(","));
  download(`${content.name}-${suffix}.csv`, lines.join("\r\n") + "\r\n");
}

if (get("copy-groups")) {
  byAndBy(get("copy-groups"), get("more-copies"), content.copies.map((group, i) => () => copyGroup(group, i)), GROUPS_AT_A_TIME, "groups");
  get("export-copies").addEventListener("click", () => {
    const rows = content.copies.flatMap((group, g) =>
      group.points.map((point, i) => [g + 1, i === group.keep ? "keep" : "copy", group.kinds[i], paths[point], ...group.sizes[i].map((value) => value || "")]),
    );
    exported("copies", ["group", "advice", "kind", "path", "width", "height", "bytes"], rows);
  });
}

const strays = { outliers: [], odd: [] };
for (let i = 0; i < n; i++) {
  if (isOutlier[i]) strays.outliers.push(i);
  else if (isOdd[i]) strays.odd.push(i);
}
for (const points of Object.values(strays)) points.sort((a, b) => distances[b] - distances[a]);

for (const [kind, points] of Object.entries(strays)) {
  const box = get(`${kind}-photos`);
  if (!box) continue;
  byAndBy(box, get(`more-${kind}`), points.map((point) => () => thumb(point)), STRAYS_AT_A_TIME, kind === "odd" ? "odd ones" : "outliers");
  if (box.firstChild) box.firstChild.tabIndex = 0;
}
if (get("export-strays")) {
  get("export-strays").addEventListener("click", () => {
    const rows = Object.entries(strays).flatMap(([kind, points]) =>
      points.map((point) => [kind === "odd" ? "odd" : "outlier", nameOf(clusterOf[point]), valueOf(content.distance, distances, point).toFixed(4), paths[point]]),
    );
    exported("outliers", ["kind", "cluster", "distance", "path"], rows);
  });
}
