"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from selfcluster.errors import ConfigError


def write_atomically(file: Path, content: bytes) -> None:
    """The file holds the content, or, if anything goes wrong, what it held before."""
    partial = file.with_name(f".{file.name}.partial")
    write_synced(partial, content)
    os.replace(partial, file)
    sync_folder(file.parent)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Inside, an empty folder to fill; afterwards it stands in the target's place, or, if anything goes wrong, nothing has changed.

    Args:
        target: what stands there goes only when the new folder is on the disk.
    """
    target = target.resolve()
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("partial", "replaced"))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        new.mkdir(parents=True)
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        sync_folder(new)
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_synced(file: Path, content: bytes) -> None:
    """The file holds the content, and the disk has it."""
    with file.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(file: Path) -> None:
    with file.open("r+b") as there:
        os.fsync(there.fileno())


def sync_folder(folder: Path) -> None:
    """The disk has the names in the folder: a new name is there only when the folder is; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_destination(out: Path, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """A file can be written there.

    Raises:
        ConfigError: another ending, no such folder, or it is there already.
    """
    if out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a folder; name a file, such as {str(out / f'out{endings[0]}')!r}")
    if out.suffix not in endings:
        raise ConfigError(f"--out {str(out)!r} must end in {' or '.join(endings)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}; make it, or choose another file")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ConfigError(f"--out {str(out)!r} cannot be written: no permission in {str(out.absolute().parent)!r}; choose another folder")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {str(out)!r} is there already; choose another file, or replace it by --overwrite")
