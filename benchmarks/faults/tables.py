"""Section of docs/results.md about injected faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.markdown import table
from benchmarks.record import RESULTS, recorded

_Row = list[str]


def section() -> str:
    """Return the section as Markdown, with what has been recorded."""
    intro = (
        "## Faults\n\nFaults injected into runs by `benchmarks/faults` ([what is promised](explanation/reliability.md)). "
        "Right means: what the promise says, in every detail that the script checks."
    )
    rows = [
        row
        for name, rows_of in _KINDS.items()
        if (RESULTS / f"faults-{name}.json").is_file()
        for row in rows_of(recorded(f"faults-{name}"))
    ]
    return f"{intro}\n\n{table(['', 'injected', 'right', ''], rows)}"


def _ranks(result: dict[str, Any]) -> list[_Row]:
    names = {"death": "one of three ranks is killed", "hang": "one of three ranks is suspended, `--rank-timeout 10`"}
    rows = []
    for what, name in names.items():
        if of := result.get(what):
            seconds = of["seconds"]
            rows.append(
                [
                    name,
                    f"{of['trials']}",
                    f"{of['right']}",
                    f"the others end after {seconds['min']:.0f} to {seconds['max']:.0f} s, with one line that names it",
                ]
            )
    if of := result.get("restart"):
        rows.append(
            [
                "a rank is killed twice under `torchrun --max-restarts`",
                f"{of['trials']}",
                f"{of['right']}",
                "60 steps with the losses of an undisturbed run, bit for bit",
            ]
        )
    if of := result.get("numbers"):
        rows.append(
            [
                "2, then 1, then 4 ranks",
                "1",
                "",
                f"largest relative difference of {of['steps']} losses to those of one rank: {of['largest_relative_difference']:.1e}",
            ]
        )
    for lr, found in result.get("losses", {}).items():
        differ = "; ".join(f"{name}: {_step(steps['0.0001'])}" for name, steps in found.items())
        rows.append([f"losses, LARS, {lr}", "", "", f"differ by 1e-4 from those of one rank, of 60 steps: {differ}"])
    return rows


def _step(step: int | None) -> str:
    return "never" if step is None else f"from step {step}"


def _hosts(result: dict[str, Any]) -> list[_Row]:
    rows = []
    for loss, name in {
        "killed": "one of two hosts is killed, and started again",
        "link down": "the link between two hosts is down for 25 s",
    }.items():
        of = [row for row in result["rows"] if row["lost"] == loss]
        rows.append(
            [name, f"{len(of)}", f"{sum(row['same_losses'] for row in of)}", "120 steps with the losses of an undisturbed run, bit for bit"]
        )
    return rows


def _signals(result: dict[str, Any]) -> list[_Row]:
    n, wrong = result["trials"], len({line.split(":")[0] for line in result["wrong"]})
    name = "a signal at a random moment, four methods, with workers"
    return [[name, f"{n}", f"{n - wrong}", "status, checkpoint, no processes left, goes on"]]


def _disk_full(result: dict[str, Any]) -> list[_Row]:
    n, right = result["trials"] - result["had_room"], result["failed_as_they_should"]
    return [["a full disk, ten commands", f"{n}", f"{right}", "one line, status 2, what stood stays, works once there is room"]]


def _collapse(result: dict[str, Any]) -> list[_Row]:
    rows = []
    for row in result.get("provoked", []):
        setting = ", ".join(f"{name} {value}" for name, value in row["set"].items())
        cured = row["followed"] and row["followed"]["alarm"] is None
        found = f"{row['alarm']} at step {row['step']}" if row["alarm"] else f"no alarm in {row['step']:,} steps"
        says = "names it" if row["names_it"] else "does not name it"
        after = f"; {says}; {'healthy' if cured else 'not healthy'} once it is followed" if row["alarm"] else ""
        rows.append([f"collapse: {row['method']}, {setting}", "1", f"{int(bool(row['names_it'] and cured))}", found + after])
    if of := result.get("healthy"):
        rows.append(["runs with the recipe", f"{of['runs']}", f"{of['runs'] - of['alarms']}", f"no alarm in {of['steps']:,} steps"])
    return rows


def _fuzz(result: dict[str, Any]) -> list[_Row]:
    rows = []
    for name, of in result["results"].items():
        n = of["read"] + of["refused"]
        said = f"slowest {of['slowest_seconds']:.2f} s" + "".join(f"; {finding}" for finding in of["findings"])
        rows.append([f"mutated: {name}", f"{n:,}", f"{n - sum(of['findings'].values()):,}", said])
    return rows


def _memory(result: dict[str, Any]) -> list[_Row]:
    steps, images = result["steps"], result["images"]
    return [
        [
            f"{max(map(int, steps['mib'])):,} steps",
            "",
            "",
            f"{steps['min_after_500']:.0f} to {steps['max_after_500']:.0f} MiB from step 500 on",
        ],
        [
            f"{images['images']:,} images embedded",
            "",
            "",
            f"{images['feature_gib']:.1f} GiB of features, peak memory {images['peak_mib']:,.0f} MiB",
        ],
    ]


_KINDS: dict[str, Callable[[dict[str, Any]], list[_Row]]] = {
    "signals": _signals,
    "ranks": _ranks,
    "ranks-losses": _ranks,
    "hosts": _hosts,
    "disk-full": _disk_full,
    "collapse": _collapse,
    "memory": _memory,
    "fuzz": _fuzz,
}
