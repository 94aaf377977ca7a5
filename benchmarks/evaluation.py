"""Our evaluators compared with others on the same features: kNN with lightly's, the linear probe with scikit-learn's.

    pip install 'selfcluster[bench]'
    python -m benchmarks.evaluation DATA [--test DATA2] [--max-minutes 2] [--repeats 5]

An encoder is trained on DATA for some minutes, and the features of both splits are computed once. Then, in turns (A B A B ...):

- kNN with k = 20 and 200: ours, including standard errors, and `lightly.utils.benchmarking.knn.knn_predict`, once per k, in batches of 512.
  With fewer training images than k, both use all of them.
- The linear probe at one regularization strength: ours, and scikit-learn's LogisticRegression (lbfgs, default tolerance 1e-4) on
  features standardized beforehand, outside the timing. Our whole probe, which also chooses the strength and computes the standard
  error, is timed separately.

Recorded: top-1 accuracy of both, the share of test images with equal predictions, and the penalized mean loss of both in float64.
Results: results/evaluation.json.
"""

from __future__ import annotations

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

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster.api import train
from selfcluster.evaluation import knn, linear
from selfcluster.evaluation.protocol import evaluation_data

KS = (20, 200)
Sides = tuple[Tensor, np.ndarray, Tensor, np.ndarray]
"""Features and classes to train on, then to test on."""


def features_of(data: str, test: str | None, minutes: float) -> tuple[Sides, str]:
    """Train an encoder for some minutes and return its features and its name."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(data, out=Path(folder) / "run", max_minutes=minutes)
        split = evaluation_data(run.opened, data, test, 0.2, "auto").split
        rows: list[Any] = []
        for subset in (split.train, split.test):
            rows += [torch.from_numpy(run.embed(subset.images.array[subset.index])), subset.codes]
        return tuple(rows), run.config.model.encoder


def lightly_knn(sides: Sides, k: int) -> np.ndarray:
    """Return the predicted class of each test image."""
    from lightly.utils.benchmarking.knn import knn_predict

    bank, labels, queries, _ = sides
    bank, queries, known = normalize(bank).T.contiguous(), normalize(queries), torch.from_numpy(labels)
    n_classes = int(labels.max()) + 1
    batches = [knn_predict(batch, bank, known, n_classes, knn_k=k, knn_t=0.1)[:, 0] for batch in queries.split(512)]
    return torch.cat(batches).numpy()


def timed(calls: dict[str, Callable[[], Any]], n: int, peer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each call's result, and the times over n turns with the ratio of ours to the peer's."""
    results = {name: call() for name, call in calls.items()}  # also loads libraries
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(n):
        for name, call in calls.items():
            started = time.perf_counter()
            results[name] = call()
            seconds[name].append(time.perf_counter() - started)
    pairs = zip(seconds["selfcluster"], seconds[peer], strict=True)
    times = {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "our_seconds_over": {peer: spread([ours / theirs for ours, theirs in pairs])},
    }
    return results, times


def compare_knn(sides: Sides, n: int) -> dict[str, Any]:
    ks = tuple(dict.fromkeys(min(k, len(sides[0])) for k in KS))
    calls: dict[str, Callable[[], Any]] = {
        "selfcluster": lambda: dict(knn.measure(*sides, ks=ks)),
        "lightly": lambda: {k: lightly_knn(sides, k) for k in ks},
    }
    results, times = timed(calls, n, "lightly")
    top1 = {}
    for k in ks:
        theirs = float((results["lightly"][k] == sides[3]).mean())
        top1[f"k{k}"] = {"selfcluster": results["selfcluster"][f"eval/knn_top1_k{k}"], "lightly": theirs}
    return {"top1": top1, **times}


def compare_linear(sides: Sides, n: int) -> dict[str, Any]:
    features, labels, test, test_labels = sides
    strength = linear.fit(features, labels).strength
    scaler = StandardScaler().fit(features.numpy())
    x, x_test = scaler.transform(features.numpy()), scaler.transform(test.numpy())

    def scikit_learn() -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=1 / (len(labels) * strength), max_iter=1000).fit(x, labels)

    calls: dict[str, Callable[[], Any]] = {
        "selfcluster": lambda: linear.fit(features, labels, strength=strength),
        "scikit-learn": scikit_learn,
        "selfcluster, strength chosen": lambda: dict(linear.measure(*sides)),
    }
    results, times = timed(calls, n, "scikit-learn")
    ours, theirs = results["selfcluster"], results["scikit-learn"]
    predicted = {"selfcluster": ours.predict(test), "scikit-learn": theirs.predict(x_test)}
    # Our weights apply to raw features, but the penalty applies to the weights of standardized ones.
    our_weight = (ours.weight.double() * torch.from_numpy(scaler.scale_)[:, None]).T
    our_scores = features.double() @ ours.weight.double() + ours.bias.double()
    their_weight, their_scores = torch.from_numpy(theirs.coef_).double(), torch.from_numpy(theirs.decision_function(x)).double()
    targets = torch.from_numpy(np.searchsorted(ours.classes, labels))
    loss = {
        name: float(cross_entropy(scores, targets)) + strength / 2 * float(weight.square().sum())
        for name, scores, weight in (("selfcluster", our_scores, our_weight), ("scikit-learn", their_scores, their_weight))
    }
    return {
        "strength": strength,
        "top1": {name: float((classes == test_labels).mean()) for name, classes in predicted.items()},
        "alike": float((predicted["selfcluster"] == predicted["scikit-learn"]).mean()),
        "loss": loss,
        **times,
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("data", help="a .npy or .npz file, or the name of a data set that fits in memory")
    p.add_argument("--test")
    p.add_argument("--max-minutes", type=float, default=2.0)
    p.add_argument("--repeats", type=int, default=5)
    a = p.parse_args()
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
