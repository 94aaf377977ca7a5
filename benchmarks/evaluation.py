"""The evaluators beside their peers' on the same features: kNN beside lightly's, the linear probe beside scikit-learn's.

    pip install 'selfcluster[bench]'
    python -m benchmarks.evaluation DATA [--test DATA2] [--max-minutes 2] [--repeats 5]

An encoder is trained on DATA for some minutes, and features of both splits are made once. Then, in turns (A B A B ...) in one process:

- kNN, k = 20 and 200: ours, with standard errors, and `lightly.utils.benchmarking.knn.knn_predict`, once for each k, in batches of 512.
  Where the smallest class has fewer images than k, both take the k that we lower it to.
- The linear probe at one strength: ours, and scikit-learn's LogisticRegression (lbfgs, its default tolerance of 1e-4) on features standardised beforehand,
  which is not counted. Beside them the time of our whole probe, with the choice of the strength and the standard error.

Told are the top-1 of both, the share of test images that both predict alike, and the mean loss with penalty of both in float64. Results: results/evaluation.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.record import record, spread
from selfcluster.api import train
from selfcluster.evaluation import knn, linear
from selfcluster.evaluation.protocol import evaluation_data

KS = (20, 200)
Sides = tuple[Tensor, np.ndarray, Tensor, np.ndarray]
"""Features and classes to learn from, then to test on."""


def features_of(data: str, test: str | None, minutes: float) -> tuple[Sides, str]:
    """Features of a run of some minutes, and its encoder's name."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(data, out=Path(folder) / "run", max_minutes=minutes)
        split = evaluation_data(run.opened, data, test, 0.2, "auto").split
        assert split is not None
        rows: list[Any] = []
        for subset in (split.train, split.test):
            rows += [torch.from_numpy(run.embed(subset.images.array[subset.index])), subset.codes]  # type: ignore[attr-defined]
        return tuple(rows), run.config.model.encoder  # type: ignore[return-value]


def lightlys_knn(sides: Sides, k: int) -> np.ndarray:
    """Class of each test image."""
    from lightly.utils.benchmarking.knn import knn_predict

    bank, labels, queries, _ = sides
    bank, queries, known = normalize(bank).T.contiguous(), normalize(queries), torch.from_numpy(labels)
    n_classes = int(labels.max()) + 1
    parts = [knn_predict(part, bank, known, n_classes, knn_k=k, knn_t=0.1)[:, 0] for part in queries.split(512)]
    return torch.cat(parts).numpy()


def timed(turns: dict[str, Callable[[], Any]], n: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each, in turns, and what each gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    gave = {name: turn() for name, turn in turns.items()}  # libraries are loaded
    for _ in range(n):
        for name, turn in turns.items():
            started = time.perf_counter()
            gave[name] = turn()
            seconds[name].append(time.perf_counter() - started)
    return seconds, gave


def compare_knn(sides: Sides, n: int) -> dict[str, Any]:
    turns: dict[str, Callable[[], Any]] = {
        "selfcluster": lambda: dict(knn.measure(*sides, ks=KS)),
        "lightly": lambda: {k: lightlys_knn(sides, knn.usable_k(k, sides[1])) for k in KS},
    }
    seconds, gave = timed(turns, n)
    top1 = {
        f"k{k}": {"selfcluster": gave["selfcluster"][f"eval/knn_top1_k{k}"], "lightly": float((gave["lightly"][k] == sides[3]).mean())}
        for k in KS
    }
    return {"top1": top1, **_ratio(seconds, "lightly")}


def compare_linear(sides: Sides, n: int) -> dict[str, Any]:
    features, labels, test, test_labels = sides
    strength = linear.fit(features, labels).strength
    scaler = StandardScaler().fit(features.numpy())
    x, x_test = scaler.transform(features.numpy()), scaler.transform(test.numpy())

    def theirs() -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=1 / (len(labels) * strength), max_iter=1000).fit(x, labels)

    turns: dict[str, Callable[[], Any]] = {
        "selfcluster": lambda: linear.fit(features, labels, strength=strength),
        "scikit-learn": theirs,
        "selfcluster, strength chosen": lambda: dict(linear.measure(*sides)),
    }
    seconds, gave = timed(turns, n)
    ours, sklearns = gave["selfcluster"], gave["scikit-learn"]
    predicted = {"selfcluster": ours.predict(test), "scikit-learn": sklearns.predict(x_test)}
    # Our weights are of raw features; the penalty is on those of standardised ones.
    own = (ours.weight.double() * torch.from_numpy(scaler.scale_)[:, None]).T
    raw_scores = features.double() @ ours.weight.double() + ours.bias.double()
    their_scores = torch.from_numpy(sklearns.decision_function(x)).double()
    wanted = torch.from_numpy(np.searchsorted(ours.classes, labels))
    loss = {
        "selfcluster": float(cross_entropy(raw_scores, wanted)) + strength / 2 * float(own.square().sum()),
        "scikit-learn": float(cross_entropy(their_scores, wanted))
        + strength / 2 * float(np.square(sklearns.coef_.astype(np.float64)).sum()),
    }
    return {
        "strength": strength,
        "top1": {name: float((classes == test_labels).mean()) for name, classes in predicted.items()},
        "alike": float((predicted["selfcluster"] == predicted["scikit-learn"]).mean()),
        "loss": loss,
        **_ratio(seconds, "scikit-learn"),
    }


def _ratio(seconds: dict[str, list[float]], peer: str) -> dict[str, Any]:
    pairs = zip(seconds["selfcluster"], seconds[peer], strict=True)
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "our_seconds_over": {peer: spread([ours / theirs for ours, theirs in pairs])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a .npy or .npz file, or the name of a set that is held in memory")
    parser.add_argument("--test")
    parser.add_argument("--max-minutes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    sides, encoder = features_of(a.data, a.test, a.max_minutes)
    figures = {
        "data": Path(a.data).stem,
        "encoder": encoder,
        "train": list(sides[0].shape),
        "test": list(sides[2].shape),
        "knn": compare_knn(sides, a.repeats),
        "linear": compare_linear(sides, a.repeats),
        "other_versions": {"lightly": version("lightly")},
    }
    print(figures["knn"], figures["linear"], sep="\n")
    print(f"-> {record('evaluation', figures).name}")


if __name__ == "__main__":
    main()
