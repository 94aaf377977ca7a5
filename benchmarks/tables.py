"""Tables of the docs, made from the recorded results and never typed.

    python -m benchmarks.tables

Writes docs/results.md, docs/speed.svg (extra bench), and the README's table between its two markers.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import speed_tables
from benchmarks.record import RESULTS, recorded, table

ROOT = RESULTS.parents[1]
_COLUMNS = {
    "eval/knn_top1_k20": "kNN k=20",
    "eval/knn_top1_k200": "kNN k=200",
    "cluster/accuracy": "cluster accuracy",
    "cluster/nmi": "NMI",
    "cluster/ami": "AMI",
    "cluster/ari": "ARI",
}
_BEGIN, _END = "<!-- demo: made by python -m benchmarks.tables -->", "<!-- end of demo -->"


def readme(text: str) -> str:
    """The README with the demo's table and its mean over seeds."""
    demo = recorded("demo")
    runs = demo["runs"]
    shown = _figures(runs[0]["figures"])
    floor = runs[0]["figures"]["raw pixels"]["cluster/accuracy"]
    spread, seconds = demo["cluster_accuracy"], demo["seconds"]
    says = (
        f"Over {len(runs)} seeds the clusters match the digits with a mean accuracy of {demo['cluster_accuracy_mean']:.3f} ({spread['min']:.3f} to {spread['max']:.3f}), against "
        f"{floor:.3f} for raw pixels; training took {seconds['min']:.0f} to {seconds['max']:.0f} s ([all figures](docs/results.md))."
    )
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n{shown}\n\n{says}\n{_END}{rest.split(_END)[1]}"


def results() -> str:
    """docs/results.md."""
    parts = [
        "# Results\n\nMade from `benchmarks/results/*.json` by `python -m benchmarks.tables`. Each file holds command, commit, versions and machine. "
        "Times are those of one shared machine with two CPU cores and no GPU: compare them within a file only."
    ]
    demo = recorded("demo")
    parts.append("## Digits\n\nThe demo, a row a seed; clusters of all 1,797 images.\n\n" + _seeds(demo))
    for file in sorted(RESULTS.glob("quality-*.json")):
        parts.append(_quality(recorded(file.stem)))
    if (RESULTS / "kmeans.json").exists():
        parts.append("## K-means\n\n" + _kmeans(recorded("kmeans")))
    if (RESULTS / "growth.json").exists():
        parts.append("## Growth of DeepCluster's assign phase\n\n" + _growth(recorded("growth")))
    if (RESULTS / "crops.json").exists():
        parts.append("## Making the crops\n\n" + _crops(recorded("crops")))
    parts.append("## The training step\n\n" + _steps([recorded(file.stem) for file in sorted(RESULTS.glob("step-*.json"))]))
    parts.append("![How many times as fast as lightly's parts](speed.svg)")
    return "\n\n".join([*parts, *speed_tables.sections()]) + "\n"


def _figures(figures: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(_number(metric, values[metric]) for metric in _COLUMNS)] for name, values in figures.items()]
    return table(["", *_COLUMNS.values()], rows)


def _seeds(demo: dict[str, Any]) -> str:
    rows = []
    for run in demo["runs"]:
        trained = run["figures"]["trained encoder"]
        rows.append([str(run["seed"]), *(_number(metric, trained[metric]) for metric in _COLUMNS), f"{run['seconds']:.0f} s"])
    return table(["seed", *_COLUMNS.values(), "training"], rows)


def _quality(result: dict[str, Any]) -> str:
    runs, seeds = result["runs"], {run["seed"] for run in result["runs"]}
    of_seeds = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    what = (
        f"At most {result['max_minutes']:g} minutes of training a run on {result['machine']['cores']} CPU cores, settings by the recipe, {of_seeds}. Images seen are those of "
        "training steps; images/s is over all of the training time, clustering included."
    )
    floors = [[name, *(_number(m, runs[0]["figures"][name][m]) for m in _COLUMNS), *[""] * 4] for name in list(runs[0]["figures"])[:2]]
    methods = [[run for run in runs if run["method"] == method] for method in dict.fromkeys(run["method"] for run in runs)]
    head = ["", *_COLUMNS.values(), "images seen", "images/s", "clustering", "peak memory"]
    settings = "\n".join(f"- {_settings(of_method[0])}" for of_method in methods)
    rows = table(head, floors + [_method_row(of_method) for of_method in methods])
    return f"## {result['name']}\n\n{what}\n\n{rows}\n\n{settings}\n\n" + "; ".join(runs[0]["notes"]) + "."


def _method_row(runs: list[dict[str, Any]]) -> list[str]:
    def mean(*path: str) -> float:
        values = []
        for run in runs:
            value: Any = run
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.mean(values)

    figures = [_number(metric, mean("figures", "trained encoder", metric)) for metric in _COLUMNS]
    share = mean("assign_seconds") / mean("train_seconds")
    return [
        runs[0]["method"],
        *figures,
        f"{mean('images_seen'):,.0f}",
        f"{mean('images_per_second'):,.0f}",
        f"{100 * share:.0f} % of the time" if share else "",
        f"{mean('peak_memory_gib'):.1f} GiB" if "peak_memory_gib" in runs[0] else "",
    ]


def _settings(run: dict[str, Any]) -> str:
    s = run["settings"]
    k = s["n_prototypes"] if isinstance(s["n_prototypes"], int) else " + ".join(map(str, s["n_prototypes"]))
    crops = " + ".join(f"{n} x {side}" for n, side in zip(s["n_crops"], s["crop_pixels"], strict=True))
    return f"{run['method']}: `{s['encoder']}`, {crops} px, K = {k}, batch {s['batch']}, {s['optimizer']}, lr {s['lr']:g}"


def _kmeans(result: dict[str, Any]) -> str:
    head = [
        "points",
        "K",
        "selfcluster",
        "faiss",
        "scikit-learn",
        "ours / faiss",
        "ours / scikit-learn",
        "inertia: faiss, scikit-learn over ours",
        "peak memory, MiB",
    ]
    rows = []
    for r in result["results"]:
        seconds, over, inertia = r["seconds"], r["our_seconds_over"], r["inertia_over_ours"]
        rows.append(
            [
                f"{r['n']:,}",
                f"{r['k']:,}",
                *(f"{seconds[name]['median']:.2f} s" for name in ("selfcluster", "faiss", "scikit-learn")),
                *(
                    f"{over[name]['median']:.2f} ({over[name]['min']:.2f} to {over[name]['max']:.2f}, {over[name]['n']})"
                    for name in ("faiss", "scikit-learn")
                ),
                f"{inertia['faiss']:.6f}, {inertia['scikit-learn']:.6f}",
                ", ".join(f"{r['peak_bytes'][name] / 2**20:,.0f}" for name in ("selfcluster", "faiss", "scikit-learn")),
            ]
        )
    intro = (
        f"{result['iterations']} iterations from the same starting centroids, 128 dimensions, {result['threads']} threads, in turns; centroids and assignments of all. Peak memory is "
        "above points and libraries, in the order of the columns.\n\n"
    )
    return intro + table(head, rows)


def _growth(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['n']:,}",
            f"{r['seconds']['median']:.2f} s",
            f"{r['microseconds_per_image']['median']:.1f}",
            f"{r['peak_bytes']['median'] / 2**20:,.0f} MiB",
        ]
        for r in result["results"]
    ]
    intro = f"Whitening, k-means (K = {result['k']}, {result['iterations']} iterations) and uniform sampling of generated features, {result['width']} wide, in a file that is mapped into memory.\n\n"
    return intro + table(["images", "time", "microseconds an image", "peak memory beside the mapped files"], rows)


def _crops(result: dict[str, Any]) -> str:
    names = list(result["results"][0]["milliseconds_an_image"])
    rows = []
    for r in result["results"]:
        times = [f"{r['milliseconds_an_image'][name]['median']:.2f} ms" for name in names]
        ratios = [_ratio(r["ours_over"][mine]["lightly"]) for mine in names[:2]]
        rows.append([f"{r['recipe']} px, from {r['from_pixels']}", *times, *ratios])
    intro = (
        "Milliseconds an image on one thread, from the decoded image to normalized crops, the paper's augmentation, in turns. The ratios are "
        "ours over lightly's: in memory, and from files that are decoded already.\n\n"
    )
    return intro + table(["crops", *names, "in memory / lightly", "files / lightly"], rows)


def _steps(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        speed, over, s = r["images_per_second"], r["step_over"], r["settings"]
        crops = " + ".join(f"{n} x {side}" for n, side in zip(s["n_crops"], s["crop_pixels"], strict=True))
        rows.append(
            [
                r["data"],
                f"`{s['encoder']}`, {crops} px, batch {s['batch']}",
                *(f"{speed[name]['median']:,.4g}" if name in speed else "" for name in ("step", "bare", "lightly")),
                *(_ratio(over[name]) if name in over else "" for name in ("bare", "lightly")),
                f"{100 * r['data_wait']['median']:.1f} %",
                f"{100 * r['share_of_codes_loss_and_update']['median']:.1f} %" if "share_of_codes_loss_and_update" in r else "",
            ]
        )
    intro = (
        "The whole step (decode, crops, codes, loss, update) beside the bare forward and backward of the same network with the same crops in memory, and beside a step built of lightly's parts with the same "
        "encoder, crops and batch, in turns.\n\n"
    )
    head = [
        "data",
        "encoder and crops",
        "step, images/s",
        "bare, images/s",
        "lightly, images/s",
        "step / bare",
        "step / lightly",
        "waits for data",
        "codes, loss, update",
    ]
    return intro + table(head, rows)


def _ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f}, {r['n']} turns)"


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.startswith("eval/") or metric == "cluster/accuracy" else f"{value:.3f}"


def main() -> None:
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text()))
    (ROOT / "docs" / "results.md").write_text(results())
    (ROOT / "docs" / "speed.svg").write_text(speed_tables.plot())


if __name__ == "__main__":
    main()
