"""The tables of speed and memory, and their plot, made from the recorded results. Called by `benchmarks.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.record import RESULTS, recorded, table


def sections() -> list[str]:
    """Those whose results are recorded, as Markdown."""
    kinds = {"epochs": _epochs, "embed": _embed, "evaluation": _evaluation, "report": _report, "growth_step": _growth, "startup": _startup}
    found = [make(recorded(name)) for name, make in kinds.items() if (RESULTS / f"{name}.json").exists()]
    levers = [recorded(file.stem) for file in sorted(RESULTS.glob("levers-*.json"))]
    return found + ([_levers(levers)] if levers else [])


def times_faster() -> list[tuple[str, dict[str, float]]]:
    """What the plot shows: how many times as fast as lightly's parts, in each recorded comparison with them."""
    found = []
    for file in sorted(RESULTS.glob("step-*.json")):
        r = recorded(file.stem)
        if "lightly" in r["step_over"]:
            crops = " + ".join(f"{n}x{side}" for n, side in zip(r["settings"]["n_crops"], r["settings"]["crop_pixels"], strict=True))
            found.append((f"step, {r['settings']['encoder']}, {crops}", r["step_over"]["lightly"]))
    if (RESULTS / "epochs.json").exists():
        found.append(("epoch of JPEG files", recorded("epochs")["seconds_over_the_first"]["lightly"]))
    for r in recorded("crops")["results"]:
        over = r["ours_over"]["selfcluster, images in memory"]["lightly"]
        found.append(
            (f"crops, {r['recipe'].replace(' x ', 'x')}", {"median": 1 / over["median"], "min": 1 / over["max"], "max": 1 / over["min"]})
        )
    return found


def plot() -> str:
    """An SVG: a bar for each comparison with lightly's parts, on a scale of powers, with the spread over turns."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "selfcluster", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from io import StringIO

    import matplotlib.pyplot as plt

    rows = times_faster()[::-1]
    figure, axes = plt.subplots(figsize=(7.5, 0.36 * len(rows) + 0.9), layout="constrained")
    medians = [r["median"] for _, r in rows]
    spread = [[r["median"] - r["min"] for _, r in rows], [r["max"] - r["median"] for _, r in rows]]
    axes.barh(range(len(rows)), [m - 1 for m in medians], left=1, color="#3b6fb6", height=0.6)
    axes.errorbar(medians, range(len(rows)), xerr=spread, fmt="none", ecolor="#777777", elinewidth=1, capsize=2)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.axvline(1, color="#777777", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for y, (_, r) in enumerate(rows):
        axes.annotate(f"{r['median']:.1f}", (r["max"], y), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_xlabel("times as fast as lightly's parts (median and spread over turns)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _epochs(result: dict[str, Any]) -> str:
    rows = []
    for name, entry in result["entries"].items():
        over = result["seconds_over_the_first"].get(name)
        speed = entry["images_per_second"]
        rows.append([name, f"{speed['median']:,.0f}", _ratio(over) if over else "1", f"{entry['peak_bytes'] / 2**20:,.0f} MiB"])
    s = result["entries"]["as it comes"]["settings"]
    crops = " + ".join(f"{n} x {side}" for n, side in zip(s["n_crops"], s["crop_pixels"], strict=True))
    intro = (
        f"{result['images']:,} JPEG files ({result['folder']}), `{s['encoder']}`, {crops} px, batch {s['batch']}; a turn is an epoch. How the cores are "
        "divided between decoding and training: workers are processes that decode meanwhile, threads are shared by both in turns. Memory is that of all "
        "processes of a contestant.\n\n"
    )
    return "## Whole epochs from a folder of files\n\n" + intro + table(["", "images/s", "time over the first", "peak memory"], rows)


def _embed(result: dict[str, Any]) -> str:
    rows = []
    for r in result["results"]:
        speed = r["images_per_second"]
        rows.append(
            [
                f"`{r['encoder']}`",
                *(f"{speed[name]['median']:,.0f}" for name in ("selfcluster", "bare", "torchvision")),
                *(_ratio(r["ours_over"][name]) for name in ("bare", "torchvision")),
            ]
        )
    intro = (
        f"{result['images']:,} JPEG files of {result['from_pixels']} pixels, resized to {result['pixels']}: ours, the bare forward pass of the same prepared images in memory, and a loop with "
        "torchvision's ImageFolder and a worker a core. Images a second, and our speed over theirs.\n\n"
    )
    head = ["encoder", "selfcluster", "bare", "torchvision", "ours / bare", "ours / torchvision"]
    return "## Embedding\n\n" + intro + table(head, rows)


def _evaluation(result: dict[str, Any]) -> str:
    knn, linear = result["knn"], result["linear"]
    rows = [
        [f"kNN, {name}", *(f"{100 * top1[who]:.2f} %" for who in ("selfcluster", "lightly")), _ratio(knn["our_seconds_over"]["lightly"])]
        for name, top1 in knn["top1"].items()
    ]
    theirs = [f"{100 * linear['top1'][who]:.2f} %" for who in ("selfcluster", "scikit-learn")]
    rows.append(["linear probe, one strength", *theirs, _ratio(linear["our_seconds_over"]["scikit-learn"])])
    intro = (
        f"The same features of `{result['encoder']}`, {result['train'][0]:,} to learn from and {result['test'][0]:,} to test on: lightly's kNN, and scikit-learn's logistic regression. Both k are timed together. The probes agree on "
        f"{100 * linear['alike']:.1f} % of the images.\n\n"
    )
    return "## Evaluators\n\n" + intro + table(["", "ours", "theirs", "our time over theirs"], rows)


def _report(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['n']:,}",
            f"{r['seconds']['median']:.1f} s",
            f"{r['bytes'] / 1e6:.1f} MB",
            f"{r['peak_bytes']['median'] / 2**20:,.0f} MiB",
        ]
        for r in result["results"]
    ]
    intro = "CIFAR-10's images; from a table of clusters and features to the page: neighbors, thumbnails, galleries.\n\n"
    return "## The report\n\n" + intro + table(["images", "time", "size", "peak memory"], rows)


def _growth(result: dict[str, Any]) -> str:
    parts = [
        "## Growth of a step with crops and prototypes\n\nSwAV on the digits, batch 64, one setting varied at a time; memory of the whole process."
    ]
    for question, found in result["results"].items():
        rows = [[f"{int(n):,}", f"{r['milliseconds_a_step']:.1f} ms", f"{r['peak_bytes'] / 2**20:,.0f} MiB"] for n, r in found.items()]
        parts.append(table([question, "a step", "peak memory"], rows))
    return "\n\n".join(parts)


def _startup(result: dict[str, Any]) -> str:
    rows = [[name, f"{s['median']:.2f} s", f"{s['min']:.2f} to {s['max']:.2f}"] for name, s in result["seconds"].items()]
    return "## Start-up\n\nFrom the command to its end, each a process of its own, in turns.\n\n" + table(["", "median", "spread"], rows)


def _levers(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        for name, r in result["results"].items():
            s = r["with"]["settings"]
            pays = ""
            if name == "compile":
                cold, warm = (r[f"{which}_pays_after_steps"] for which in ("cold", "warm"))
                pays = "never" if cold is None else f"{cold:,} steps, or {warm:,} once compiled"
            rows.append(
                [
                    result["data"],
                    f"`{s['encoder']}`, batch {s['batch']}",
                    name.split()[0],
                    _ratio(r["seconds_with_over_without"]),
                    f"{r['peak_bytes_with_over_without']:.2f}",
                    pays,
                ]
            )
    intro = (
        "The same training with and without: freed memory kept (always on), `--accumulate 4`, `--recompute`, `--compile`. Time and memory with it over those without; for --compile, after how many steps "
        "it has paid for its compiling.\n\n"
    )
    return "## Levers\n\n" + intro + table(["data", "training", "lever", "time", "memory", "pays after"], rows)


def _ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"
