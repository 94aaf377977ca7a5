"""`selfcluster demo`: train on the digits without their labels, then compare with what there was before."""

from __future__ import annotations

import shlex

from selfcluster.api import Run, train
from selfcluster.evaluate import evaluate


def demo(*, out: str | None = None, seed: int = 0) -> Run:
    """The main job on data that comes with the install, with its table and the next command printed.

    Args:
        out: folder of the run; None for runs/digits-swav-<n>.
        seed: of the run.
    """
    print("selfcluster demo: 1,797 handwritten digits, no labels used in training\n")
    run = train("digits", out=out, seed=seed)
    print()
    print(evaluate(run))
    print("kNN is saturated: raw pixels of the digits reach 98 %. The clusters show what was learned.\n")
    print(f"look at them: selfcluster report {shlex.quote(str(run.path))}")
    print("next, on your own images: selfcluster train FOLDER --dry-run")
    return run
