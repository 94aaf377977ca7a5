"""Nothing but speed changes; what can be tested is that asking does no harm, also twice, and elsewhere."""

from __future__ import annotations

import sys

import pytest
import torch

from selfcluster.allocator import keep_freed_memory


def test_large_blocks_come_and_go_as_before() -> None:
    for _ in range(2):
        keep_freed_memory()
        blocks = [torch.ones(1 << 22) for _ in range(3)]
        assert all(float(block.sum()) == 1 << 22 for block in blocks)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("there is no glibc to ask"))
    keep_freed_memory()
