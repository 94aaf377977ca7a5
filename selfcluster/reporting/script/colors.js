// Colors of clusters and labels: hues a golden angle apart, so that successive numbers look different, in three lightnesses.
// Lightness and chroma are perceptual (OKLCH), with one set for light mode and one for dark mode.
let isPrinting = false;
const isDark = () => {
  if (isPrinting) return false; // paper is light
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const LIGHTNESS = { light: [0.6, 0.7, 0.5], dark: [0.74, 0.64, 0.83] };

function rgbOf(place) {
  const lightness = LIGHTNESS[isDark() ? "dark" : "light"][place % 3];
  const hue = ((place * 137.508 + 30) % 360) * (Math.PI / 180);
  return fromOklch(lightness, 0.135, hue);
}

// OKLab to sRGB, by Björn Ottosson's definition (https://bottosson.github.io/posts/oklab/).
function fromOklch(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue);
  const b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((v) => {
    const bounded = Math.min(1, Math.max(0, v));
    return Math.round(255 * (bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055));
  });
}

const cssColor = (place) => `rgb(${rgbOf(place).join(" ")})`;
