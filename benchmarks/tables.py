"""Tables of the docs, made from the recorded results and never typed.

    python -m benchmarks.tables

Writes docs/results.md, and the README's table between its two markers.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.record import RESULTS

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
    demo = _result("demo")
    runs = demo["runs"]
    table = _figures(runs[0]["figures"])
    floor = runs[0]["figures"]["raw pixels"]["cluster/accuracy"]
    spread, seconds = demo["cluster_accuracy"], demo["seconds"]
    says = (
        f"Over {len(runs)} seeds the clusters match the digits with a mean accuracy of {demo['cluster_accuracy_mean']:.3f} ({spread['min']:.3f} to {spread['max']:.3f}), against "
        f"{floor:.3f} for raw pixels; training took {seconds['min']:.0f} to {seconds['max']:.0f} s ([all figures](docs/results.md))."
    )
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n{table}\n\n{says}\n{_END}{rest.split(_END)[1]}"


def results() -> str:
    """docs/results.md."""
    parts = [
        "# Results\n\nMade from `benchmarks/results/*.json` by `python -m benchmarks.tables`. Each file holds command, commit, versions and machine. "
        "Times are those of one shared machine with two CPU cores and no GPU: compare them within a file only."
    ]
    demo = _result("demo")
    parts.append("## Digits\n\nThe demo, a row a seed; clusters of all 1,797 images.\n\n" + _seeds(demo))
    for file in sorted(RESULTS.glob("quality-*.json")):
        parts.append(_quality(_result(file.stem)))
    parts.append("## The training step\n\n" + _steps([_result(file.stem) for file in sorted(RESULTS.glob("step-*.json"))]))
    return "\n\n".join(parts) + "\n"


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _figures(figures: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(_number(metric, values[metric]) for metric in _COLUMNS)] for name, values in figures.items()]
    return _table(["", *_COLUMNS.values()], rows)


def _seeds(demo: dict[str, Any]) -> str:
    rows = []
    for run in demo["runs"]:
        trained = run["figures"]["trained encoder"]
        rows.append([str(run["seed"]), *(_number(metric, trained[metric]) for metric in _COLUMNS), f"{run['seconds']:.0f} s"])
    return _table(["seed", *_COLUMNS.values(), "training"], rows)


def _quality(result: dict[str, Any]) -> str:
    s = result["settings"]
    what = (
        f"`{s['encoder']}`, {' + '.join(f'{n} x {side}' for n, side in zip(s['n_crops'], s['crop_pixels'], strict=True))} px, K = {s['n_prototypes']}, batch {s['batch']}, "
        f"{s['optimizer']}; {result['images_seen']:,} images seen in {result['train_seconds'] / 60:.1f} minutes on {result['machine']['cores']} CPU cores, one seed."
    )
    return f"## {result['name']}\n\n{what}\n\n{_figures(result['figures'])}\n\n" + "; ".join(result["notes"]) + "."


def _steps(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        ratio = r["step_over_bare"]
        rows.append(
            [
                r["data"],
                f"`{r['settings']['encoder']}`",
                f"{r['step_images_per_second']['median']:,.0f}",
                f"{r['bare_images_per_second']['median']:,.0f}",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {ratio['n']} pairs)",
                f"{100 * r['data_wait']['median']:.0f} %",
            ]
        )
    intro = "The whole step (decode, crops, codes, loss, update) beside the bare forward and backward of the same network with the same crops in memory, in turns.\n\n"
    return intro + _table(["data", "encoder", "step, images/s", "bare, images/s", "step / bare", "waits for data"], rows)


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.startswith("eval/") or metric == "cluster/accuracy" else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text()))
    (ROOT / "docs" / "results.md").write_text(results())


if __name__ == "__main__":
    main()
