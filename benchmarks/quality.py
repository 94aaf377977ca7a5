"""Train on a data set with the recipe's settings, evaluate, and record both.

    python -m benchmarks.quality NAME DATA [--test DATA2] [--max-minutes 10] [--set encoder=... ...]

Results: results/quality-NAME.json.
"""

from __future__ import annotations

import argparse
import ast
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from selfcluster.config import flatten
from selfcluster.evaluate import evaluate
from selfcluster.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data")
    parser.add_argument("--test")
    parser.add_argument("--max-minutes", type=float, default=10.0)
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = parser.parse_args()
    settings: dict[str, Any] = {name: _value(text) for name, text in (pair.split("=", 1) for pair in a.set)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train(a.data, out=Path(folder) / "run", max_minutes=a.max_minutes, **settings)
        seconds = time.perf_counter() - started
        evaluation = evaluate(run, a.data if a.test else None, test=a.test)
        rows = [row for row in run.metrics if "train/loss" in row]
    print(evaluation)
    config = flatten(run.config)
    figures = {
        "name": a.name,
        "train_seconds": seconds,
        "images_seen": rows[-1]["step"] * config["batch"],
        "figures": evaluation.figures,
        "notes": evaluation.notes,
        "last_row": rows[-1],
        "settings": config,
    }
    print(record(f"quality-{a.name}", figures).name)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
