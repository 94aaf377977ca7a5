"""The check of the connection to the hub ends soon, and can be begun before its result is needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from selfcluster import hub


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that neither connects nor fails."""
    never = threading.Event()

    def hang(*_: object, **__: object) -> None:
        never.wait()
        raise OSError

    monkeypatch.setattr(hub, "_begun", None)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", hang)
    yield
    never.set()


def test_a_hub_that_does_not_answer_is_given_up_soon(hanging: None) -> None:
    started = time.monotonic()
    assert hub.is_offline()
    assert 1.9 < time.monotonic() - started < 4


def test_a_check_that_was_begun_before_is_not_waited_for_again(hanging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.begin_check()
    assert hub._begun is not None
    hub._begun.began -= 10
    monkeypatch.setattr(hub, "_SECONDS", 5.0)
    assert hub.is_offline()
    assert hub._begun is None, "the next question is asked anew"


def test_a_hub_that_answers_is_not_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def close(self) -> None:
            pass

    monkeypatch.setattr(hub, "_begun", None)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: Connection())
    assert not hub.is_offline()
