// Prototypes: rows of thumbnails.
const PROTOTYPES_AT_A_TIME = byWidth(6, 12, 24);

function morePrototypes() {
  const box = get("prototype-galleries");
  const shown = box.childElementCount;
  for (const prototype of content.prototypes.slice(shown, shown + PROTOTYPES_AT_A_TIME)) {
    const images = `${counted(prototype.n)} image${prototype.n === 1 ? "" : "s"}`;
    const title = made("p", { className: "kind", textContent: `Prototype ${prototype.number} · nearest to ${images}` });
    box.append(made("div", {}, title, strip(prototype.points, `Images nearest to prototype ${prototype.number}`)));
  }
  const left = content.prototypes.length - box.childElementCount;
  get("more-prototypes").hidden = left <= 0;
  get("more-prototypes").textContent = `Show ${counted(Math.min(left, PROTOTYPES_AT_A_TIME))} more prototypes`;
}

if (get("prototype-galleries")) {
  morePrototypes();
  get("more-prototypes").addEventListener("click", morePrototypes);
}
