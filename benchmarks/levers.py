"""What each lever of speed and memory does: the same training with it and without it.

    python -m benchmarks.levers [DATA] [--turns 5] [--only kept-memory compile ...] [--set encoder=resnet18 ...]

DATA is anything that `selfcluster train` takes; by default the digits. Contestants are processes of their own; see `benchmarks.turns`.
For --compile the time to the first step is told twice: with nothing compiled before, and with what was kept. Results: results/levers-NAME.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

from benchmarks.quality import value_of
from benchmarks.record import record
from benchmarks.turns import Entry, take_turns


def levers(data: str, settings: dict[str, Any]) -> dict[str, tuple[Entry, Entry]]:
    """Without and with, for each."""
    large = {"batch": 256, **settings}
    return {
        "kept-memory": (Entry(data, settings, gives_memory_back=True), Entry(data, settings)),
        "accumulate": (Entry(data, large), Entry(data, {**large, "accumulate": 4})),
        "recompute": (Entry(data, large), Entry(data, {**large, "recompute": True})),
        "compile": (Entry(data, settings), Entry(data, {**settings, "compile": True})),
    }


def measure(without: Entry, with_it: Entry, n_turns: int) -> dict[str, Any]:
    found = take_turns({"without": without, "with": with_it}, n_steps=8, n_turns=n_turns)
    return {
        **{name: found["entries"][name] for name in ("without", "with")},
        "seconds_with_over_without": found["seconds_over_the_first"]["with"],
        "peak_bytes_with_over_without": found["entries"]["with"]["peak_bytes"] / found["entries"]["without"]["peak_bytes"],
    }


def compiled(without: Entry, with_it: Entry, n_turns: int) -> dict[str, Any]:
    """Also how many steps must be done before compiling has paid, with nothing kept and with everything."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        cold = measure(without, with_it, 1)
        found = measure(without, with_it, n_turns)
    batch = found["with"]["settings"]["batch"]
    saved = batch / found["without"]["images_per_second"]["median"] - batch / found["with"]["images_per_second"]["median"]
    for name, which in (("cold", cold), ("warm", found)):
        longer = which["with"]["seconds_to_first_step"] - which["without"]["seconds_to_first_step"]
        found[f"{name}_seconds_longer_to_first_step"] = longer
        found[f"{name}_pays_after_steps"] = round(longer / saved) if saved > 0 else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--name", default="", help="of the results, where DATA is not the digits")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = parser.parse_args()
    results = {}
    title = a.name or ("digits" if a.data == "digits" and not a.set else parser.error("give the results a --name"))
    if unknown := set(a.only) - set(levers(a.data, {})):
        parser.error(f"no lever {sorted(unknown)[0]!r}; there are {', '.join(levers(a.data, {}))}")
    settings = {name: value_of(text) for name, text in (pair.split("=", 1) for pair in a.set)}
    for name, (without, with_it) in levers(a.data, settings).items():
        if a.only and name not in a.only:
            continue
        r = results[name] = (compiled if name == "compile" else measure)(without, with_it, a.turns)
        over = r["seconds_with_over_without"]
        pays = f", pays after {r['cold_pays_after_steps']} steps, or {r['warm_pays_after_steps']}" if name == "compile" else ""
        print(
            f"{name}: {over['median']:.2f} of the time ({over['min']:.2f} to {over['max']:.2f}), "
            f"{r['peak_bytes_with_over_without']:.2f} of the memory{pays}",
            flush=True,
        )
    print(record(f"levers-{title}", {"data": title, "results": results}).name)


if __name__ == "__main__":
    main()
