"""Whether the hub of pretrained weights answers; the check can begin while torch is loading, so that nobody waits for it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import huggingface_hub.constants as hub

from selfcluster.errors import ConfigError

_SECONDS = 2.0
"""Time after which a hub that has not answered counts as offline."""


class _Check:
    """A connection to the hub that is being tried in a thread, since looking up the name of the host has no timeout."""

    def __init__(self) -> None:
        self.answered, self.began = threading.Event(), time.monotonic()
        self.thread = threading.Thread(target=self._connect, daemon=True)
        self.thread.start()

    def _connect(self) -> None:
        host = urlsplit(hub.ENDPOINT)
        with contextlib.suppress(OSError):
            socket.create_connection((host.hostname, host.port or (80 if host.scheme == "http" else 443)), timeout=_SECONDS).close()
            self.answered.set()

    def is_answered(self) -> bool:
        """Wait until it has succeeded or failed, but no longer than two seconds after the start."""
        self.thread.join(timeout=max(0.0, self.began + _SECONDS - time.monotonic()))
        return self.answered.is_set()


_begun: _Check | None = None


def begin_check() -> None:
    """Begin to find out whether the hub answers; `is_offline` uses the result."""
    global _begun
    if not (hub.HF_HUB_OFFLINE or urllib.request.getproxies()):
        _begun = _Check()


def is_offline() -> bool:
    """Return whether the hub does not answer within two seconds; a proxy is not checked, and taken to answer."""
    global _begun
    if hub.HF_HUB_OFFLINE or urllib.request.getproxies():
        return bool(hub.HF_HUB_OFFLINE)
    check, _begun = _begun or _Check(), None
    return not check.is_answered()


@contextlib.contextmanager
def cached_weights_only() -> Iterator[None]:
    """Make the hub's library look for weights in its cache only, instead of retrying for a minute without a connection."""
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def downloaded(name: str) -> str:
    """Return the folder of weights of the hub, `hf-hub:OWNER/NAME`, which are downloaded unless they are cached; any other name itself.

    Raises:
        ConfigError: there are no such weights in timm's layout, or no connection.
    """
    prefix, sign, repository = name.partition(":")
    if prefix not in ("hf-hub", "hf_hub") or not sign:
        return name
    offline = is_offline()
    try:
        folder = huggingface_hub.snapshot_download(
            repository, allow_patterns=["config.json", "model.safetensors"], local_files_only=offline
        )
    except Exception as error:  # the hub's library raises many kinds
        reason = "there is no connection to the hub, and it is not cached" if offline else " ".join(str(error).split())[:200]
        raise ConfigError(f"cannot download {name!r}: {reason}; check the name, or name a folder or a timm encoder") from None
    if missing := [file for file in ("config.json", "model.safetensors") if not Path(folder, file).is_file()]:
        raise ConfigError(f"{name!r} has no {' and no '.join(missing)}, so it is not an encoder of timm's; choose another one")
    return folder
