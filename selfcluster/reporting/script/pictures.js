// Prototypes and near-duplicates: rows of thumbnails.
const TOPS_AT_A_TIME = 24;

function moreTops() {
  const box = get("tops");
  const shown = box.childElementCount;
  for (const top of content.prototypes.slice(shown, shown + TOPS_AT_A_TIME)) {
    const images = `${counted(top.n)} image${top.n === 1 ? "" : "s"}`;
    const title = made("p", { className: "kind", textContent: `Prototype ${top.number} · nearest to ${images}` });
    box.append(made("div", {}, title, strip(top.points, `Images nearest to prototype ${top.number}`)));
  }
  const left = content.prototypes.length - box.childElementCount;
  get("more-tops").hidden = left <= 0;
  get("more-tops").textContent = `Show ${counted(Math.min(left, TOPS_AT_A_TIME))} more prototypes`;
}

if (get("tops")) {
  moreTops();
  get("more-tops").addEventListener("click", moreTops);
}
if (get("twins")) {
  for (const [i, group] of content.duplicates.entries()) {
    get("twins").append(strip(group.slice(0, 12), `Near-duplicates, group ${i + 1}, ${group.length} images`));
  }
}
