"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from selfcluster.errors import ConfigError


def write_atomically(file: Path, content: bytes) -> None:
    """Write the file; if anything goes wrong, its previous content stays."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        write_synced(partial, content)
        os.replace(partial, file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces the target on exit; if anything goes wrong, the target stays as it was."""
    target = target.resolve()
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("partial", "replaced"))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        new.mkdir(parents=True)
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("r+b") as written:
                    os.fsync(written.fileno())
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
    """Write the file and sync it to disk; an OSError names it."""
    try:
        with file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def append(file: TextIO, line: str) -> None:
    """Write to an open file and flush it.

    Raises:
        OSError: it cannot be written; the error names the file, which is closed, since what it holds back cannot be written either.
    """
    try:
        file.write(line)
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()
        raise OSError(error.errno, error.strerror, file.name) from None


def sync_folder(folder: Path) -> None:
    """Sync the folder itself, which makes new names in it durable. Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_destination(out: Path, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that a file can be written there.

    Raises:
        ConfigError: the suffix is not among the endings, the folder does not exist or is read-only, or the file exists.
    """
    if out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a folder; name a file such as {str(out / f'out{endings[0]}')!r}")
    if out.suffix not in endings:
        raise ConfigError(f"--out {str(out)!r} must end in {' or '.join(endings)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}; create it, or choose another file")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ConfigError(f"--out {str(out)!r} cannot be written: no permission in {str(out.absolute().parent)!r}; choose another folder")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {str(out)!r} already exists; choose another file, or add --overwrite to replace it")
