"""The plot of speed compared with lightly, made from the recorded results."""

from __future__ import annotations

from io import StringIO

from benchmarks.markdown import crops
from benchmarks.record import RESULTS, recorded


def speedups() -> list[tuple[str, dict[str, float]]]:
    """Return the name and speed-up of each recorded comparison with lightly."""
    found = []
    for file in sorted(RESULTS.glob("step-*.json")):
        r = recorded(file.stem)
        if "lightly" in r["step_over"]:
            name = f"step, {r['settings']['encoder']}, {crops(r['settings']).replace(' x ', 'x')}"
            found.append((name, r["step_over"]["lightly"]))
    found.append(("epoch of JPEG files", recorded("epochs")["seconds_over_the_first"]["lightly"]))
    for r in recorded("crops")["results"]:
        over = r["ours_over"]["selfcluster, images in memory"]["lightly"]
        speedup = {"median": 1 / over["median"], "min": 1 / over["max"], "max": 1 / over["min"]}
        found.append((f"crops, {r['recipe'].replace(' x ', 'x')}", speedup))
    return found


def speed_plot() -> str:
    """Return an SVG with one bar per comparison, on a log scale, with the range over turns."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "selfcluster", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    import matplotlib.pyplot as plt

    rows = speedups()[::-1]
    figure, axes = plt.subplots(figsize=(7.5, 0.36 * len(rows) + 0.9), layout="constrained")
    medians = [r["median"] for _, r in rows]
    ranges = [[r["median"] - r["min"] for _, r in rows], [r["max"] - r["median"] for _, r in rows]]
    axes.barh(range(len(rows)), [m - 1 for m in medians], left=1, color="#3b6fb6", height=0.6)
    axes.errorbar(medians, range(len(rows)), xerr=ranges, fmt="none", ecolor="#777777", elinewidth=1, capsize=2)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.axvline(1, color="#777777", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for y, (_, r) in enumerate(rows):
        axes.annotate(f"{r['median']:.1f}", (r["max"], y), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_xlabel("speed relative to lightly (median and range over turns)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
