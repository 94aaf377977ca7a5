"""What is printed commands no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfcluster.formatting import command, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\n\tc é 日本", "a b\n\tc é 日本"),
        ("\x1b[2Jx.jpg\r", "\\x1b[2Jx.jpg\\r"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("caf\udce9.png", "caf\\udce9.png"),
        ("\x07\x7f\x9b", "\\x07\\x7f\\x9b"),
    ],
)
def test_control_characters_are_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_command_can_be_pasted() -> None:
    assert command("cluster", Path("my runs/a"), None, "--k", 3) == "selfcluster cluster 'my runs/a' --k 3"
