"""Time and memory of a SwAV step for growing numbers of crops and prototypes.

    python -m benchmarks.growth_step [DATA] [--turns 5]

DATA is anything that `selfcluster train` accepts (default: the digits). One setting varies, the others are the recipe's. Every contestant
is a process; see `benchmarks.turns`. Results: results/growth_step.json.
"""

from __future__ import annotations

from benchmarks.command_line import parser
from benchmarks.markdown import mib
from benchmarks.record import record
from benchmarks.turns import Entry, take_turns

SMALL_CROPS = (0, 2, 4, 8, 16)
PROTOTYPES = (100, 1_000, 10_000, 100_000)
_LARGE_ONLY = {"n_crops": (2,), "crop_pixels": (24,), "area": ((0.3, 1.0),)}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("data", nargs="?", default="digits")
    p.add_argument("--turns", type=int, default=5)
    a = p.parse_args()
    series = {
        "small crops": {str(n): Entry(a.data, {"n_crops": (2, n)} if n else _LARGE_ONLY) for n in SMALL_CROPS},
        "prototypes": {str(k): Entry(a.data, {"n_prototypes": k, "freeze_steps": 0}) for k in PROTOTYPES},
    }
    results = {}
    for name, entries in series.items():
        measured = take_turns(entries, n_steps=8, n_turns=a.turns)["entries"]
        results[name] = {
            number: {
                "milliseconds_a_step": 1e3 * entry["settings"]["batch"] / entry["images_per_second"]["median"],
                "images_per_second": entry["images_per_second"],
                "peak_bytes": entry["peak_bytes"],
            }
            for number, entry in measured.items()
        }
        for number, r in results[name].items():
            print(f"{number} {name}: {r['milliseconds_a_step']:.1f} ms per step, {mib(r['peak_bytes'])}", flush=True)
    print(f"-> {record('growth_step', {'results': results}).name}")


if __name__ == "__main__":
    main()
