"""Sections of docs/results.md about speed and memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import crops, mib, ratio, table
from benchmarks.record import RESULTS, recorded


def sections() -> list[str]:
    """Return all sections as Markdown."""
    return [
        _kmeans(recorded("kmeans")),
        _growth(recorded("growth")),
        _crops(recorded("crops")),
        _steps([recorded(file.stem) for file in sorted(RESULTS.glob("step-*.json"))]),
        "![Speed relative to lightly](speed.svg)",
        _epochs(recorded("epochs")),
        _embed(recorded("embed")),
        _evaluation(recorded("evaluation")),
        _report(recorded("report")),
        _growth_step(recorded("growth_step")),
        _first_page(recorded("first_page")),
        _startup(recorded("startup")),
        _max_minutes(recorded("max_minutes")),
        _levers([recorded(file.stem) for file in sorted(RESULTS.glob("levers-*.json"))]),
    ]


def _kmeans(result: dict[str, Any]) -> str:
    contestants, others = ("selfcluster", "faiss", "scikit-learn"), ("faiss", "scikit-learn")
    rows = [
        [
            f"{r['n']:,}",
            f"{r['k']:,}",
            *(f"{r['seconds'][name]['median']:.2f} s" for name in contestants),
            *(ratio(r["our_seconds_over"][name]) for name in others),
            ", ".join(f"{r['inertia_over_ours'][name]:.6f}" for name in others),
            ", ".join(f"{r['peak_bytes'][name] / 2**20:,.0f}" for name in contestants),
        ]
        for r in result["results"]
    ]
    intro = (
        f"{result['iterations']} iterations from the same starting centroids, 128 dimensions, {result['threads']} threads, in alternating turns. All return centroids and "
        "assignments. Peak memory excludes points and libraries, and is listed in the order of the time columns."
    )
    head = [
        "points",
        "K",
        *contestants,
        "ours / faiss",
        "ours / scikit-learn",
        "inertia over ours: faiss, scikit-learn",
        "peak memory, MiB",
    ]
    return _section("K-means", intro, table(head, rows))


def _growth(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['n']:,}",
            f"{r['seconds']['median']:.2f} s",
            f"{r['microseconds_per_image']['median']:.1f}",
            mib(r["peak_bytes"]["median"]),
        ]
        for r in result["results"]
    ]
    intro = (
        f"Whitening, k-means (K = {result['k']}, {result['iterations']} iterations) and uniform sampling of generated features, {result['width']} wide, in a "
        "memory-mapped file."
    )
    head = ["images", "time", "microseconds per image", "peak memory, without the mapped file"]
    return _section("Growth of DeepCluster's assign phase", intro, table(head, rows))


def _crops(result: dict[str, Any]) -> str:
    names = list(result["results"][0]["milliseconds_an_image"])
    rows = []
    for r in result["results"]:
        times = [f"{r['milliseconds_an_image'][name]['median']:.2f} ms" for name in names]
        ratios = [ratio(r["ours_over"][name]["lightly"]) for name in names[:2]]
        rows.append([f"{r['recipe']} px, from {r['from_pixels']}", *times, *ratios])
    intro = (
        "Milliseconds per image on one thread, from the decoded image to normalized crops, with the paper's augmentation, in alternating turns. Ratios are our time over "
        "lightly's, for images in memory and for decoded files."
    )
    return _section("Crops", intro, table(["crops", *names, "in memory / lightly", "files / lightly"], rows))


def _steps(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        speed, over, s = r["images_per_second"], r["step_over"], r["settings"]
        rest = r.get("share_of_codes_loss_and_update")
        rows.append(
            [
                r["data"],
                f"`{s['encoder']}`, {crops(s)} px, batch {s['batch']}",
                *(f"{speed[name]['median']:,.4g}" if name in speed else "" for name in ("step", "bare", "lightly")),
                *(ratio(over[name]) if name in over else "" for name in ("bare", "lightly")),
                f"{100 * r['data_wait']['median']:.1f} %",
                f"{100 * rest['median']:.1f} %" if rest else "",
            ]
        )
    intro = (
        "The whole step (decode, crops, codes, loss, update), compared with the bare forward and backward pass of the same network on crops in memory, and with a step built "
        "from lightly with the same encoder, crops and batch size, in alternating turns. Ratios are of speeds. "
        "The row `cifar10-h200` is of one NVIDIA H200 in bf16, with the images in memory."
    )
    head = ["data", "encoder and crops", "step, images/s", "bare, images/s", "lightly, images/s", "step / bare", "step / lightly"]
    return _section("Training step", intro, table([*head, "waiting for data", "codes, loss, update"], rows))


def _epochs(result: dict[str, Any]) -> str:
    rows = []
    for name, entry in result["entries"].items():
        over = result["seconds_over_the_first"].get(name)
        rows.append(
            [
                name if over else "default",
                f"{entry['images_per_second']['median']:,.0f}",
                ratio(over) if over else "1",
                mib(entry["peak_bytes"]),
            ]
        )
    s = next(iter(result["entries"].values()))["settings"]
    intro = (
        f"{result['images']:,} JPEG files ({result['folder']}), `{s['encoder']}`, {crops(s)} px, batch {s['batch']}; a turn is an epoch. The rows divide the cores differently between "
        "decoding and training: workers are processes that decode during training; threads alternate between decoding and training. Memory includes all processes of a row."
    )
    return _section("Whole epochs from a folder of files", intro, table(["", "images/s", "time over default", "peak memory"], rows))


def _embed(result: dict[str, Any]) -> str:
    rows = [
        [
            f"`{r['encoder']}`",
            *(f"{r['images_per_second'][name]['median']:,.0f}" for name in ("selfcluster", "bare", "torchvision")),
            *(ratio(r["ours_over"][name]) for name in ("bare", "torchvision")),
        ]
        for r in result["results"]
    ]
    intro = (
        f"Images per second for {result['images']:,} JPEG files of {result['from_pixels']} pixels, resized to {result['pixels']}: selfcluster, the bare forward pass of the same images already "
        "prepared in memory, and a loop with torchvision's ImageFolder and one worker per core. Ratios are of speeds."
    )
    head = ["encoder", "selfcluster", "bare", "torchvision", "ours / bare", "ours / torchvision"]
    return _section("Embedding", intro, table(head, rows))


def _evaluation(result: dict[str, Any]) -> str:
    knn, linear = result["knn"], result["linear"]
    rows = [
        [f"kNN, {name}", *(f"{100 * top1[who]:.2f} %" for who in ("selfcluster", "lightly")), ratio(knn["our_seconds_over"]["lightly"])]
        for name, top1 in knn["top1"].items()
    ]
    accuracy = [f"{100 * linear['top1'][who]:.2f} %" for who in ("selfcluster", "scikit-learn")]
    rows.append(["linear probe, one strength", *accuracy, ratio(linear["our_seconds_over"]["scikit-learn"])])
    intro = (
        f"Top-1 accuracy on the same features of `{result['encoder']}` ({result['train'][0]:,} training and {result['test'][0]:,} test images), compared with lightly's kNN and "
        f"scikit-learn's logistic regression. Both k are timed together. The linear probes agree on {100 * linear['alike']:.1f} % of the images."
    )
    return _section("Evaluators", intro, table(["", "ours", "theirs", "our time over theirs"], rows))


def _report(result: dict[str, Any]) -> str:
    def frames(r: dict[str, Any], kind: str) -> str:
        times = r[f"frame_ms_{kind}"]
        return f"{times['median']:.1f} ({times['p95']:.1f})"

    rows = [
        [
            f"{r['n']:,}",
            f"{r['seconds']['median']:.1f} s",
            f"{r['bytes'] / 1e6:.1f} MB",
            mib(r["peak_bytes"]["median"]),
            f"{r['first_picture_seconds']:.1f} s",
            frames(r, "dots"),
            frames(r, "thumbnails"),
        ]
        for r in result["results"]
    ]
    intro = (
        "CIFAR-10, from the table of clusters and the features to the page: neighbors, thumbnails, galleries. A page shows at most 50,000 images; of more, a sample, as it says. "
        "In Chromium without a GPU, 1440 x 900 pixels: the time until the first picture is drawn, and between frames while the map is panned, median and (95 %), of which the screen allows 16.7 ms."
    )
    head = ["images", "time", "size", "peak memory", "first picture", "frame, dots, ms", "frame, thumbnails, ms"]
    return _section("Report", intro, table(head, rows))


def _growth_step(result: dict[str, Any]) -> str:
    tables = []
    for name, entries in result["results"].items():
        rows = [[f"{int(n):,}", f"{r['milliseconds_a_step']:.1f} ms", mib(r["peak_bytes"])] for n, r in entries.items()]
        tables.append(table([name, "step", "peak memory"], rows))
    intro = "SwAV on the digits, batch 64, one setting varied at a time. Memory is that of the whole process."
    return _section("Growth of a step with crops and prototypes", intro, *tables)


def _startup(result: dict[str, Any]) -> str:
    seconds = {re.sub(r"^(selfcluster[^(]*[^ (]|import .*)", r"`\1`", name): s for name, s in result["seconds"].items()}
    rows = [[name, f"{s['median']:.2f} s", f"{s['min']:.2f} to {s['max']:.2f}"] for name, s in seconds.items()]
    intro = "Wall time of each command, each in a new process, in alternating turns."
    return _section("Start-up", intro, table(["", "median", "range"], rows))


def _first_page(result: dict[str, Any]) -> str:
    seconds, size = result["seconds"], result["bytes"]
    steps = ("clone", "environment", "install", "explore", "clone to first page", "explore again", "docs")
    intro = (
        f"The commands of the README in an empty folder, on {result['photos']:,} photos of Caltech 101, and how long the docs take to build. Packages came from a fast mirror, without pip's cache. "
        f"The wheel has {size['wheel'] / 1e6:.1f} MB, the page {size['page'] / 1e6:.1f} MB."
    )
    return _section("From a clone to the first page", intro, table(["", "time"], [[step, f"{seconds[step]:.0f} s"] for step in steps]))


def _max_minutes(result: dict[str, Any]) -> str:
    rows = [[r["case"], f"{r['seconds']:.0f} s", f"{r['of the limit'] - 1:+.1%}", f"{r['steps']:,}"] for r in result["runs"]]
    intro = (
        f"`selfcluster train {result['data']} --max-minutes {result['minutes']:g}`, whole command, quiet, and with other work on every core for half of the time: "
        "from a quarter to three quarters of it, and in its first half."
    )
    return _section("Time limit under changing load", intro, table(["machine", "time", "over the limit", "steps"], rows))


def _levers(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        for name, r in result["results"].items():
            s = r["with"]["settings"]
            pays = ""
            if name == "compile":
                cold, warm = r["cold_pays_after_steps"], r["warm_pays_after_steps"]
                pays = "never" if cold is None else f"{cold:,} steps, or {warm:,} once compiled"
            time, memory = ratio(r["seconds_with_over_without"]), f"{r['peak_bytes_with_over_without']:.2f}"
            setting = {"kept-memory": "freed memory kept", "recompute": "`--recompute`", "compile": "`--compile`"}.get(
                name, "`--accumulate 4`"
            )
            rows.append([result["data"], f"`{s['encoder']}`, batch {s['batch']}", setting, time, memory, pays])
    intro = (
        "The same training with and without keeping freed memory (always on), `--accumulate 4`, `--recompute`, or `--compile`: time and memory with it over those without it; "
        "for `--compile`, also the number of steps after which compiling pays."
    )
    return _section("Settings for speed and memory", intro, table(["data", "training", "setting", "time", "memory", "pays after"], rows))


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts])
