// Names on the map: of the clusters that have one, or a most frequent label, the largest first, where there is room.
const MOST_CAPTIONS = 60;
let middles = null; // the median position of each cluster

function medianOf(members, values) {
  const sorted = members.map((i) => values[i]).sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

function drawCaptions() {
  middles ||= membersOf.map((members) => (members.length ? [medianOf(members, xs), medianOf(members, ys)] : null));
  const shown = focused < 0 ? placesShown().sort(bySize) : [focused];
  const taken = [];
  pen.font = `600 ${12 * view.ratio}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineJoin = "round";
  pen.lineWidth = 3.5 * view.ratio;
  pen.strokeStyle = isDark() ? "rgb(26 28 31 / 0.85)" : "rgb(255 255 255 / 0.85)";
  pen.fillStyle = getComputedStyle(plot).color;
  for (const place of shown) {
    const text = shortName(place);
    if (!text || !middles[place] || taken.length >= MOST_CAPTIONS) continue;
    const [x, y] = [xOnScreen(middles[place][0]) * view.ratio, yOnScreen(middles[place][1]) * view.ratio];
    const half = pen.measureText(text).width / 2 + 4 * view.ratio;
    const [high, low] = [y - 8 * view.ratio, y + 8 * view.ratio];
    if (x < half || x > canvas.width - half || high < 0 || low > canvas.height) continue;
    if (taken.some(([a, b, c, d]) => x - half < b && x + half > a && high < d && low > c)) continue;
    taken.push([x - half, x + half, high, low]);
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
  }
}

cutListeners.push(() => (middles = null));
nameListeners.push(redraw);
