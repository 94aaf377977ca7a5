// Start-up: dark mode, values of the curves under the pointer, cards and map.
const THEME = "selfcluster-theme";

function applyTheme() {
  get("theme").setAttribute("aria-pressed", isDark());
  for (const item of get("cards").children) item.style.setProperty("--color", cssColor(Number(item.dataset.cluster)));
  prepareColors();
  showLegend();
  redraw();
}

for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    isPrinting = printing;
    applyTheme();
    for (const element of document.querySelectorAll(".thumb, .photo, .picture")) {
      if (!shownAt.has(element)) continue;
      if (printing) cutOut(element);
      else showThumb(element, ...shownAt.get(element));
    }
    for (const fold of document.querySelectorAll("details.fold")) fold.open = printing || isWide.matches;
    draw(); // now, since printing does not wait for the next frame
  });
}

get("theme").addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(THEME, chosen);
  } catch {
    // Not stored: the choice lasts until the page is closed.
  }
  applyTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
try {
  const chosen = localStorage.getItem(THEME);
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Nothing is stored; the system's choice applies.
}

for (const figure of document.querySelectorAll(".curve")) {
  const steps = figure.dataset.steps.split(" ").map(Number);
  const values = figure.dataset.values.split("|");
  const [now, at, frame] = [figure.querySelector(".now"), figure.querySelector(".at"), figure.querySelector("svg")];
  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const wanted = steps[0] + ((event.clientX - box.left) / box.width) * (steps[steps.length - 1] - steps[0]);
    let i = 0;
    while (i < steps.length - 1 && Math.abs(steps[i + 1] - wanted) <= Math.abs(steps[i] - wanted)) i++;
    const across = (300 * (steps[i] - steps[0])) / (steps[steps.length - 1] - steps[0] || 1);
    at.setAttribute("x1", across);
    at.setAttribute("x2", across);
    at.setAttribute("visibility", "visible");
    now.textContent = `${values[i]} at step ${counted(Math.round(steps[i]))}`;
  });
  frame.addEventListener("pointerleave", () => {
    at.setAttribute("visibility", "hidden");
    now.textContent = values[values.length - 1];
  });
}

restoreCut();
for (let i = 0; i < clusters.length; i++) {
  if (givenName(i)) for (const listener of nameListeners) listener(i);
}
listClusters();
applyTheme();
measurePlot();
for (const element of document.querySelectorAll(".card .thumb")) {
  const { size, sheet } = placeOfThumb(...shownAt.get(element));
  sheetImage(size, sheet); // so that it is there when the page is printed
}
new ResizeObserver(measurePlot).observe(plot);
new ResizeObserver(showMosaic).observe(mosaic);
// What only some look for is folded away on a phone.
const isWide = matchMedia("(min-width: 700px)");
for (const fold of document.querySelectorAll("details.fold")) fold.open = isWide.matches;
