"""Everything a user can cause, as one tree.

    SelfclusterError
    |-- ConfigError (a ValueError too)    a setting, preset, method or flag that cannot be
    |-- DataError (a ValueError too)      images that are missing, unreadable, too few or of the wrong shape
    |-- CheckpointError                   a run or checkpoint that is damaged, in use, or of another configuration
    `-- CollapseError                     training that has died: one embedding for every image, or no learning
        `-- DivergenceError               training that has blown up: a loss or an embedding that is not finite

Every message is one line: what is wrong, the offending value, and what to try next. The command line prints it without a
stack trace and exits with 2 for a user's mistake and 3 for a collapse.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


class SelfclusterError(Exception):
    """The root of the tree above."""

    exit_status = 2


class ConfigError(SelfclusterError, ValueError):
    """A setting that cannot be."""


class DataError(SelfclusterError, ValueError):
    """Images that cannot be used."""


class CheckpointError(SelfclusterError):
    """A run folder or checkpoint that cannot be used."""


class CollapseError(SelfclusterError):
    """Training that has stopped learning anything."""

    exit_status = 3


class DivergenceError(CollapseError):
    """Training whose numbers are no longer finite."""


class Interrupted(Exception):  # noqa: N818 - no error: it was asked for
    """A signal asked the run to leave; its checkpoint is written."""

    def __init__(self, number: int, step: int, folder: Path | None) -> None:
        super().__init__(f"left at step {step} with a checkpoint; go on with: selfcluster train --resume --out {shlex.quote(str(folder))}")
        self.exit_status = 128 + number


def known(name: str, names: Any, what: str) -> str:
    """The name, if it is one of the names.

    Raises:
        ConfigError: it is not; the message holds the nearest right one.
    """
    if name in names:
        return name
    import difflib

    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(names)[:12])}"
    raise ConfigError(f"unknown {what} {name!r}; {hint}")
