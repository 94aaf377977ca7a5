"""Effect of each setting for speed and memory: the same training with and without it.

    python -m benchmarks.levers [DATA] [--turns 5] [--only kept-memory compile ...] [--set encoder=resnet18 ...]

DATA is anything that `selfcluster train` accepts (default: the digits). Every contestant is a process; see `benchmarks.turns`. For
--compile, the time to the first step is measured twice: with an empty cache, and with a full one. Results: results/levers-NAME.json.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from benchmarks.command_line import parser, settings_from
from benchmarks.markdown import ratio
from benchmarks.record import record
from benchmarks.turns import Entry, take_turns


def levers(data: str, settings: dict[str, Any]) -> dict[str, tuple[Entry, Entry]]:
    """Return, for each lever, the training without it and with it."""
    large = {"batch": 256, **settings}
    return {
        "kept-memory": (Entry(data, settings, frees_memory=True), Entry(data, settings)),
        "accumulate": (Entry(data, large), Entry(data, {**large, "accumulate": 4})),
        "recompute": (Entry(data, large), Entry(data, {**large, "recompute": True})),
        "compile": (Entry(data, settings), Entry(data, {**settings, "compile": True})),
    }


def measure(without: Entry, with_it: Entry, n_turns: int) -> dict[str, Any]:
    result = take_turns({"without": without, "with": with_it}, n_steps=8, n_turns=n_turns)
    entries = result["entries"]
    return {
        **entries,
        "seconds_with_over_without": result["seconds_over_the_first"]["with"],
        "peak_bytes_with_over_without": entries["with"]["peak_bytes"] / entries["without"]["peak_bytes"],
    }


def measure_compile(without: Entry, with_it: Entry, n_turns: int) -> dict[str, Any]:
    """Measure as for the others, and compute after how many steps compiling pays, with an empty and with a full cache."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        cold = measure(without, with_it, 1)
        result = measure(without, with_it, n_turns)
    batch = result["with"]["settings"]["batch"]
    saved = batch / result["without"]["images_per_second"]["median"] - batch / result["with"]["images_per_second"]["median"]
    for name, r in (("cold", cold), ("warm", result)):
        delay = r["with"]["seconds_to_first_step"] - r["without"]["seconds_to_first_step"]
        result[f"{name}_seconds_longer_to_first_step"] = delay
        result[f"{name}_pays_after_steps"] = round(delay / saved) if saved > 0 else None
    return result


def main() -> None:
    p = parser(__doc__)
    p.add_argument("data", nargs="?", default="digits")
    p.add_argument("--name", default="", help="name of the results; needed unless DATA is the digits, without --set")
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--only", nargs="*", default=list(levers("", {})), choices=list(levers("", {})))
    p.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = p.parse_args()
    name = a.name or ("digits" if a.data == "digits" and not a.set else p.error("give the results a --name"))
    results = {}
    for lever, (without, with_it) in levers(a.data, settings_from(a.set)).items():
        if lever not in a.only:
            continue
        r = results[lever] = (measure_compile if lever == "compile" else measure)(without, with_it, a.turns)
        line = f"{lever}: {ratio(r['seconds_with_over_without'])} of the time, {r['peak_bytes_with_over_without']:.2f} of the memory"
        if lever == "compile":
            line += f", pays after {r['cold_pays_after_steps']} steps, or {r['warm_pays_after_steps']} with a full cache"
        print(line, flush=True)
    print(f"-> {record(f'levers-{name}', {'data': name, 'results': results}).name}")


if __name__ == "__main__":
    main()
