"""Whether the hub of pretrained weights answers; the check can begin while torch is loading, so that nobody waits for it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import huggingface_hub.constants as hub

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
