"""How time and memory of a step of SwAV grow with the number of crops and of prototypes.

    python -m benchmarks.growth_step [DATA] [--turns 5]

DATA is anything that `selfcluster train` takes; by default the digits. One setting varies, the others are the recipe's. Contestants are
processes of their own; see `benchmarks.turns`. Results: results/growth_step.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.record import record
from benchmarks.turns import Entry, take_turns

SMALL_CROPS = (0, 2, 4, 8, 16)
PROTOTYPES = (100, 1_000, 10_000, 100_000)


def entries(data: str) -> dict[str, dict[str, Entry]]:
    """For each question, who answers it."""
    return {
        "small crops": {str(n): Entry(data, {"n_crops": (2, n)} if n else _LARGE_ALONE) for n in SMALL_CROPS},
        "prototypes": {str(k): Entry(data, {"n_prototypes": k, "freeze_steps": 0}) for k in PROTOTYPES},
    }


_LARGE_ALONE: dict[str, Any] = {"n_crops": (2,), "crop_pixels": (24,), "area": ((0.3, 1.0),)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    results = {}
    for question, who in entries(a.data).items():
        found = take_turns(who, n_steps=8, n_turns=a.turns)
        results[question] = {
            name: {
                "milliseconds_a_step": 1e3 * entry["settings"]["batch"] / entry["images_per_second"]["median"],
                "images_per_second": entry["images_per_second"],
                "peak_bytes": entry["peak_bytes"],
            }
            for name, entry in found["entries"].items()
        }
        for name, r in results[question].items():
            print(f"{name} {question}: {r['milliseconds_a_step']:.1f} ms a step, {r['peak_bytes'] / 2**20:,.0f} MiB", flush=True)
    print(record("growth_step", {"results": results}).name)


if __name__ == "__main__":
    main()
