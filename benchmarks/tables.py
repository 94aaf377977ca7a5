"""Tables of the docs, generated from the recorded results.

    python -m benchmarks.tables

Writes docs/results.md, docs/speed.svg (extra bench), and the README's table between its two markers.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import plot, speed_tables
from benchmarks.command_line import parser
from benchmarks.faults import tables as faults
from benchmarks.markdown import crops, table
from benchmarks.record import RESULTS, recorded

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
    """Return the README with the demo's table and its mean over seeds."""
    demo = recorded("demo")
    figures = demo["runs"][0]["figures"]
    shown = table(["", *_COLUMNS.values()], [[name, *_cells(values)] for name, values in figures.items()])
    accuracy, seconds = demo["cluster_accuracy"], demo["seconds"]
    summary = (
        f"Over {len(demo['runs'])} seeds, the clusters match the digits with a mean accuracy of {demo['cluster_accuracy_mean']:.3f} "
        f"({accuracy['min']:.3f} to {accuracy['max']:.3f}), compared with {figures['raw pixels']['cluster/accuracy']:.3f} for raw pixels; "
        f"training took {seconds['min']:.0f} to {seconds['max']:.0f} s ([all figures](docs/results.md))."
    )
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n{shown}\n\n{summary}\n{_END}{rest.split(_END)[1]}"


def results() -> str:
    """Return docs/results.md."""
    intro = (
        "# Results\n\nGenerated from `benchmarks/results/*.json` by `python -m benchmarks.tables`. Each file contains the command, commit, versions and machine. "
        "Unless a GPU is named, times were measured on one shared machine with two CPU cores; compare times only within a table. A ratio is the median over turns, with "
        "its range and the number of turns."
    )
    demo = [[str(run["seed"]), *_cells(run["figures"]["trained encoder"]), f"{run['seconds']:.0f} s"] for run in recorded("demo")["runs"]]
    parts = [
        intro,
        "## The demo\n\n`selfcluster demo`, one row per seed; clusters of all 1,797 digits.",
        table(["seed", *_COLUMNS.values(), "training"], demo),
        _beside_others(),
        _adapting(),
        _patches(),
        _first_labels(),
        _number_of_clusters(),
        _copies(),
        _outliers(),
        _trust(),
        _many_images(),
        *(_quality(recorded(file.stem)) for file in sorted(RESULTS.glob("quality-*.json"))),
        faults.section(),
        *speed_tables.sections(),
    ]
    return "\n\n".join(parts) + "\n"


def _beside_others() -> str:
    """Return the section on other ways to the same clusters, and on lightly's SwAV."""
    result = recorded("thirty_lines")
    intro = (
        f"## Beside other tools\n\n{result['k']} clusters of the Caltech photos, with the same weights: thirty lines of timm, torch's loader and scikit-learn's k-means at two sizes of images, tasnif 0.3, and "
        f"`explore --k {result['k']}` at 128 px, which also makes the page. 2 CPU cores."
    )
    rows = [
        [name, f"{r['seconds']['median']:.0f} s", f"{100 * r['matched accuracy']['median']:.1f} %", f"{r['NMI']['median']:.3f}"]
        for name, r in result["found"].items()
    ]
    beside = table(["", "time", "cluster accuracy", "NMI"], rows)
    result = recorded("lightly-swav-cifar10")
    swav = (
        f"SwAV from scratch on CIFAR-10 (45,000 images, 5,000 to test), {result['minutes']:g} minutes on 2 CPU cores with `{result['encoder']}` and crops of the same sizes: the recipe as it comes, and lightly's transform, head, "
        "prototypes and loss with their documented settings, in a plain loop with a cosine schedule."
    )
    rows = [
        [
            name,
            f"{r['images']['median']:,.0f}",
            *(f"{100 * r[key]['median']:.1f} %" for key in ("eval/knn_top1_k20", "eval/knn_top1_k200", "cluster/accuracy")),
        ]
        for name, r in result["found"].items()
    ]
    return f"{intro}\n\n{beside}\n\n{swav}\n\n{table(['', 'images seen', 'kNN k=20', 'kNN k=200', 'cluster accuracy'], rows)}"


def _trust() -> str:
    """Return the section on the tests of the verdict."""
    intro = (
        "## Tests of encoder and clusters\n\nThe tests without labels that the page's verdict counts: images found again among 384, gray, cropped and mirrored, by features and by 8 x 8 raw pixels; images whose cluster "
        "their mean color tells, and the share of the largest cluster; the state that the page shows."
    )
    rows = []
    for file in sorted(RESULTS.glob("trust-*.json")):
        result = recorded(file.stem)
        for name, r in result["found"].items():
            shares = (f"{100 * r[key]:.0f} %" for key in ("found", "found_by_pixels", "cluster_by_color", "largest"))
            rows.append([f"{result['name']}: {name}", *shares, r["state"]])
    return f"{intro}\n\n{table(['', 'found', 'by pixels', 'cluster by color', 'largest', 'state'], rows)}"


def _many_images() -> str:
    """Return the section on clusters of many images."""
    result = recorded("many_images")
    intro = f"## Clusters of many images\n\nTime and memory (beside the features, mapped from disk) from {result['width']:,} features per image to the table of clusters: their number, copies, outliers, map. Generated features, 2 CPU cores."
    rows = [
        [
            f"{r['n']:,}",
            f"{r['seconds_to_find']:.0f} s",
            f"{r['seconds']:.0f} s",
            f"{r['anonymous'] / 2**30:.1f} GiB",
            f"{r['file_bytes'] / 2**30:.1f} GiB",
        ]
        for r in result["results"]
    ]
    return f"{intro}\n\n{table(['images', 'clusters found', 'all', 'memory', 'features on disk'], rows)}"


def _adapting() -> str:
    """Return the section on adapting the pretrained encoder."""
    intro = (
        "## Adapting\n\n`train --init pretrained` with the recipe as it comes, on 2 CPU cores: the encoder that comes with the install before and after; mean over the seeds, "
        "with the smallest and the largest. Nearest neighbors among the training images; k-means with as many clusters as classes."
    )
    shown = {
        "knn_k5": "kNN k=5",
        "knn_k20": "kNN k=20",
        "test_clusters": "clusters, test",
        "test_nmi": "NMI",
        "train_clusters": "clusters, training",
        "train_nmi": "NMI",
    }
    rows = []
    for file in sorted(RESULTS.glob("adapt-*.json")):
        result = recorded(file.stem)
        for method in dict.fromkeys(run["method"] for run in result["runs"]):
            runs = [run for run in result["runs"] if run["method"] == method]
            seconds = statistics.mean(run["train_seconds"] for run in runs)
            name = f"{result['name']}, {method}"
            rows.append([f"{name}: before", "", *(_mean_of(runs, "before", key) for key in shown)])
            rows.append([f"{name}: after", f"{seconds:.0f} s", *(_mean_of(runs, "after", key) for key in shown)])
    return f"{intro}\n\n{table(['', 'training', *shown.values()], rows)}"


def _mean_of(runs: list[dict[str, Any]], when: str, key: str) -> str:
    return _spread([run[when][key] for run in runs], 3 if "nmi" in key else 1)


def _spread(values: list[float], digits: int) -> str:
    spread = "" if max(values) - min(values) < 10**-digits else f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _first_labels() -> str:
    """Return the section on first labels."""
    intro = (
        "## First labels\n\nTraining from scratch with the recipe as it comes and `--first-labels network` or `patches`, for the same time on 2 CPU cores, in bf16; mean over the seeds, with the "
        "smallest and the largest. Nearest neighbors among the training images; side by side are unit vectors, those of patches weighted by 2."
    )
    shown = {"network": "network", "patches": "patches", "both_2": "side by side", "test_clusters": "clusters, network"}
    rows = []
    for file in sorted(RESULTS.glob("first-labels-*.json")):
        result = recorded(file.stem)
        for first in dict.fromkeys(run["first_labels"] for run in result["runs"]):
            runs = [run for run in result["runs"] if run["first_labels"] == first]
            length = f"{statistics.mean(run['train_seconds'] for run in runs) / 60:.1f} min, {statistics.mean(run['epochs'] for run in runs):.1f} epochs"
            figures = (_spread([run[key] for run in runs], 1) for key in shown)
            rows.append([f"{result['name']}, {result['method']}: {first}", length, f"k = {result['k']}", *figures])
    return f"{intro}\n\n{table(['', 'training', 'kNN', *shown.values()], rows)}"


def _patches() -> str:
    """Return the section on patches."""
    intro = (
        "## Patches\n\nFeatures of `--encoder patches` in float32, fitted to the training images; nearest neighbors among all of these, for images that were "
        "not fitted to. Seconds to fit, and to compute the features of all images."
    )
    rows = []
    for file in sorted(RESULTS.glob("patches-*.json")):
        if not file.stem.startswith("patches-search"):
            r = recorded(file.stem)
            numbers = [
                f"{r['bank']:,}",
                f"{r['test']:,}",
                f"{r['side']} px",
                f"{r['n_codes']:,}",
                f"{r['kNN']['median']:.1f} % (k = {r['k']})",
            ]
            rows.append(
                [
                    r.get("data", file.stem.removeprefix("patches-")),
                    *numbers,
                    *(f"{r[key]['median']:.0f} s" for key in ("fit_seconds", "features_seconds")),
                ]
            )
    final = table(["", "training", "test", "side", "codes", "kNN", "fit", "features"], rows)
    searches = {
        file.stem.removeprefix("patches-search-"): recorded(file.stem)["found"] for file in sorted(RESULTS.glob("patches-search-*.json"))
    }
    changes = [[change, *(f"{found[change]['kNN']:.1f} %" for found in searches.values())] for change in next(iter(searches.values()))]
    return f"{intro}\n\n{final}\n\nOne setting changed at a time, kNN of one seed with small dictionaries, to choose the defaults:\n\n{table(['', *searches], changes)}"


def _number_of_clusters() -> str:
    """Return the section on clusters of features."""
    intro = (
        "## Number of clusters\n\nClusters of the features of the pretrained encoder, or of the one that the name of the set says (swav: trained for 12 minutes on one core), frozen: "
        "matched accuracy with as many clusters as classes, and with as many as `--k auto` finds; balanced and long-tailed subsets of the classes, "
        "mean over the seeds. The tree of clusters is that of `cluster` and `explore`; the others are centered k-means (spherical, the best of 10 starts), Ward on 64 principal components and "
        "spectral clustering on the graph of neighbors."
    )
    methods = ("tree", "k-means", "Ward, 64 components", "spectral", "tree, auto")
    rows: list[list[str]] = []
    hits: dict[str, list[bool]] = {}
    for file in sorted(RESULTS.glob("clusterings-*.json")):
        result = recorded(file.stem)
        of_encoder = hits.setdefault(result.get("encoder", "pretrained"), [])
        of_encoder += [
            max(r["clusters"] / r["classes"], r["classes"] / r["clusters"]) <= 1.3 for r in result["found"] if r["method"] == "tree, auto"
        ]
        for subset in dict.fromkeys(r["subset"] for r in result["found"]):
            of_subset = {m: [r for r in result["found"] if r["subset"] == subset and r["method"] == m] for m in methods}
            accuracies = [f"{100 * statistics.mean(r['accuracy'] for r in of_subset[m]):.1f} %" for m in methods]
            numbers = ", ".join(str(r["clusters"]) for r in of_subset["tree, auto"])
            rows.append([f"{result['name']}: {subset}", f"{of_subset['tree'][0]['classes']}", *accuracies[:-1], numbers, accuracies[-1]])
    cases = "; ".join(f"{encoder} encoder: {sum(of)} of {len(of)}" for encoder, of in sorted(hits.items()))
    summary = f"Cases where the number found is within a factor of 1.3 of the number of classes: {cases}."
    return f"{intro}\n\n{table(['', 'classes', 'tree', 'k-means', 'Ward', 'spectral', 'found', 'with these'], rows)}\n\n{summary}"


def _copies() -> str:
    """Return the section on copies."""
    result = recorded("copies")
    first = result["found"][0]
    intro = (
        f"## Copies\n\n{first['photos']:,} photos, half of them with a planted copy: the same file, resized to 60 %, saved again as JPEG of quality 50, mirrored, or cropped by 5 %. Found copies, and those whose kind was named; "
        f"pairs that were not planted, among the photos and among {first['textures']:,} windows of other photos that are mostly texture ([what they are](log.md)). Three choices of photos."
    )
    kinds = list(first["planted"])
    rows = [
        [
            str(r["seed"]),
            *(f"{r['found'][kind]} of {r['planted'][kind]} ({r['named'][kind]})" for kind in kinds),
            str(r["false among photos"]),
            str(r["false among textures"]),
        ]
        for r in result["found"]
    ]
    return f"{intro}\n\n{table(['seed', *kinds, 'others, photos', 'others, textures'], rows)}"


def _outliers() -> str:
    """Return the section on outliers."""
    result = recorded("outliers")
    bases = list(result["shares"])
    names = ["its own", *bases, "noise", "colors"]
    intro = (
        "## Outliers\n\nPer cent of new images beyond the limit that 1 % of the clustered ones exceed, with the features of `explore`: of the other half of the same set, up to 1,000 of "
        "other sets, of noise (single pixels, gray, smooth) and of single colors. "
        "Rows are what was clustered, columns what is new. Medians over three seeds."
    )
    rows = [
        [
            base,
            *(
                f"{100 * result['shares'][base][name]['median']:.{1 if name == 'its own' else 0}f}"
                if name in result["shares"][base]
                else ""
                for name in names
            ),
        ]
        for base in bases
    ]
    return f"{intro}\n\n{table(['clustered', *names], rows)}"


def _quality(result: dict[str, Any]) -> str:
    """Return the section of one data set."""
    runs = result["runs"]
    n_seeds = len({run["seed"] for run in runs})
    machine = result["machine"]
    intro = (
        f"At most {result['max_minutes']:g} minutes of training per run on {machine.get('gpu') or str(machine['cores']) + ' CPU cores'}, settings from the recipe, "
        f"{f'mean of {n_seeds} seeds' if n_seeds > 1 else 'one seed'}. Images seen count all training steps; images/s is their number over the total training time, "
        "including clustering."
    )
    head = ["", *_COLUMNS.values(), "images seen", "images/s", "clustering", "peak memory"]
    rows = [[name, *_cells(values), *[""] * 4] for name, values in runs[0]["figures"].items() if name != "trained encoder"]
    settings = []
    for method in dict.fromkeys(run["method"] for run in runs):
        of_method = [run for run in runs if run["method"] == method]
        s, figures = of_method[0]["settings"], [run["figures"]["trained encoder"] for run in of_method]
        means = {
            name: statistics.mean(run[name] for run in of_method)
            for name in ("assign_seconds", "train_seconds", "images_seen", "images_per_second", "peak_memory_gib")
            if name in of_method[0]
        }
        share = means["assign_seconds"] / means["train_seconds"]
        rows.append(
            [
                method,
                *_cells({metric: statistics.mean(values[metric] for values in figures) for metric in _COLUMNS if metric in figures[0]}),
                f"{means['images_seen']:,.0f}",
                f"{means['images_per_second']:,.0f}",
                f"{100 * share:.0f} % of the time" if share else "",
                f"{means['peak_memory_gib']:.1f} GiB" if "peak_memory_gib" in means else "",
            ]
        )
        k = s["n_prototypes"] if isinstance(s["n_prototypes"], int) else " + ".join(map(str, s["n_prototypes"]))
        settings.append(f"- {method}: `{s['encoder']}`, {crops(s)} px, K = {k}, batch {s['batch']}, {s['optimizer']}, lr {s['lr']:g}")
    notes = "; ".join(runs[0]["notes"]).replace("neighbours", "neighbors")  # the spelling of older records
    return f"## {result['name']}\n\n{intro}\n\n{table(head, rows)}\n\n" + "\n".join(settings) + f"\n\n{notes[0].upper()}{notes[1:]}."


def _cells(values: dict[str, float]) -> list[str]:
    """Format the columns' metrics: shares as percentages, the others with three decimals; empty where fewer training images have another k."""
    shares = ("eval/knn_top1_k20", "eval/knn_top1_k200", "cluster/accuracy")
    return [
        "" if metric not in values else f"{100 * values[metric]:.1f} %" if metric in shares else f"{values[metric]:.3f}"
        for metric in _COLUMNS
    ]


def main() -> None:
    parser(__doc__).parse_args()
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text()))
    (ROOT / "docs" / "results.md").write_text(results())
    (ROOT / "docs" / "speed.svg").write_text(plot.speed_plot())


if __name__ == "__main__":
    main()
