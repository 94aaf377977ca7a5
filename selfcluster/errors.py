"""The exceptions that a user can cause, as one tree.

    SelfclusterError
    |-- ConfigError (a ValueError too)    an unknown or wrong setting, preset, method or flag
    |-- DataError (a ValueError too)      images that are missing, unreadable, too few or of the wrong shape
    |-- CheckpointError                   a run or checkpoint that is damaged, in use, or of another config
    |-- RankError                         another process of a run in several that has ended, or does not answer
    `-- CollapseError                     training that has collapsed: one embedding for every image, or no learning
        `-- DivergenceError               training that has diverged: a loss or an embedding that is not finite

Every message is one line: what is wrong, the offending value, and what to try next. The command line prints it without a
stack trace and exits with 2 for a user's mistake, 3 for a collapse and 4 for a lost rank.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


class SelfclusterError(Exception):
    """Root of the tree above."""

    exit_status = 2


class ConfigError(SelfclusterError, ValueError):
    """An unknown or wrong setting."""


class DataError(SelfclusterError, ValueError):
    """Images that cannot be used."""


class CheckpointError(SelfclusterError):
    """A run folder or checkpoint that cannot be used."""


class RankError(SelfclusterError):
    """Another rank has ended, or does not answer."""

    exit_status = 4


class CollapseError(SelfclusterError):
    """Training that has collapsed, or learns nothing."""

    exit_status = 3


class DivergenceError(CollapseError):
    """Training that has diverged."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """A run that stopped on a signal, after writing a checkpoint."""

    def __init__(self, number: int, step: int, folder: Path | None) -> None:
        super().__init__(
            f"stopped at step {step} with a checkpoint; resume with: selfcluster train --resume --out {shlex.quote(str(folder))}"
        )
        self.exit_status = 128 + number


def known(name: Any, names: Any, what: str) -> str:
    """Return the name if it is one of the names.

    Raises:
        ConfigError: it is not; the message suggests the closest name, or lists them.
    """
    if isinstance(name, str) and name in names:
        return name
    raise ConfigError(f"unknown {what} {name!r}; {suggestion(str(name), names) or 'choose from ' + ', '.join(sorted(names)[:12])}")


def suggestion(name: str, names: Any) -> str:
    """Return the question whether the closest of the names was meant; "" if none is close."""
    import difflib

    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
