"""Blocks of code on the pages of the docs, and the marks that say how they are run; CONTRIBUTING.md describes them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>.*?) -->\s*?\n)?(?P<indent> *)(?P<fence>`{3,})(?P<language>.*)\n(?P<code>(?:.*\n)*?) *(?P=fence)$", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    """What follows the opening fence; nothing for commands."""
    code: str
    line: int
    """Line of the opening fence."""
    not_run: str | None = None
    """Why it is not run; None if it is."""
    exit_status: int = 0
    """Status with which its last command ends."""

    @property
    def is_run(self) -> bool:
        """Whether it is run."""
        return self.not_run is None and self.language in ("", "python")

    @property
    def commands(self) -> list[str]:
        """Lines of a block of commands, with continued lines joined."""
        lines = self.code.replace("\\\n", " ").splitlines() if not self.language else []
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in _BLOCK.finditer(text):
        mark = match["mark"] or ""
        status = re.fullmatch(r"exit status (\d+)", mark)
        found.append(
            Block(
                language=match["language"].strip(),
                code=textwrap.dedent(match["code"]),
                line=text.count("\n", 0, match.start("fence")) + 1,
                not_run=mark.removeprefix("not run: ") if mark.startswith("not run: ") else None,
                exit_status=int(status[1]) if status else 0,
            )
        )
    return found


def name_of(page: Path) -> str:
    """Return a page's path, as it is called in the output of tests."""
    return str(page.relative_to(ROOT))
