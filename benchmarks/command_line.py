"""Command lines of the benchmarks."""

from __future__ import annotations

import argparse
import ast
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser which shows a module's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def settings_from(pairs: list[str]) -> dict[str, Any]:
    """Parse SETTING=VALUE pairs; a value that is not a Python literal is a string."""
    settings: dict[str, Any] = {}
    for name, text in (pair.split("=", 1) for pair in pairs):
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings
