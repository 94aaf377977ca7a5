// Names of clusters: those of the run, or what the user calls them, stored in the browser for each clustering of each run.
const STORE = `selfcluster-names-${content.key}`;
let givenNames = {};
try {
  givenNames = JSON.parse(localStorage.getItem(STORE)) || {};
} catch {
  get("not-kept").hidden = false;
}
const nameListeners = [];

const numberedName = (cluster) => `Cluster ${clusters[cluster].number}`;
const givenName = (cluster) => givenNames[clusters[cluster].key] ?? clusters[cluster].name;
const nameOf = (cluster) => givenName(cluster) || numberedName(cluster);
// The given name, or the most frequent label unless it is a number.
const shortName = (cluster) => givenName(cluster) || (/^\d*$/.test(clusters[cluster].label ?? "") ? "" : clusters[cluster].label);

function keepNames(changed) {
  try {
    localStorage.setItem(STORE, JSON.stringify(givenNames));
  } catch {
    get("not-kept").hidden = false;
  }
  for (const cluster of changed) for (const listener of nameListeners) listener(cluster);
}

function giveName(cluster, name) {
  const { key, name: former } = clusters[cluster];
  if (name.trim() !== former) givenNames[key] = name.trim();
  else delete givenNames[key];
  keepNames([cluster]);
}

// What can be taken back: each function restores what was there before.
const earlier = [];

function canBeUndone(restore) {
  earlier.push(restore);
  get("undo").disabled = false;
}

function remember(names = { ...givenNames }) {
  canBeUndone(() => {
    givenNames = names;
    keepNames(clusters.keys());
  });
}

// A text that a spreadsheet would take for a formula gets an apostrophe in front, which `apply` removes.
const neutralized = (text) => (/^'*[=+\-@\t\r]/.test(text) && !/^[+-]?\d+(\.\d+)?$/.test(text) ? `'${text}` : text);
// RFC 4180: text with a comma, a quote or a line break is quoted, and quotes are doubled.
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function namesAsCsv() {
  const lines = ["path,cluster,name"];
  for (let i = 0; i < n; i++) {
    const cluster = clusterOf[i];
    lines.push([quoted(neutralized(paths[i])), clusters[cluster].number, quoted(neutralized(givenName(cluster)))].join(","));
  }
  return lines.join("\r\n") + "\r\n";
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  made("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

get("export").addEventListener("click", () => download(`${content.name}-names.csv`, namesAsCsv()));
