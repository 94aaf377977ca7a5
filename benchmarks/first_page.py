"""Seconds from a clone to the first page, of the docs, and the size of the wheel.

    python -m benchmarks.first_page photos/

The commands of the README, one after another in an empty folder with an empty environment: clone, environment, `pip install .`, and
`selfcluster explore` on a folder of photos, and once more. pip takes packages from its index as it is set
up, not from its cache. Then the docs are built in the environment, and the wheel. Results: results/first_page.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser
from benchmarks.record import record, seconds_of

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("photos", type=Path)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone, environment = Path(folder, "selfcluster"), Path(folder, "environment")
        pip = [environment / "bin" / "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
        explore = [environment / "bin" / "selfcluster", "explore", a.photos.resolve()]
        seconds: dict[str, float] = {
            "clone": _run("git", "clone", "--quiet", f"file://{ROOT}", clone),
            "environment": _run(sys.executable, "-m", "venv", environment),
            "install": _run(*pip, ".", cwd=clone),
            "explore": _run(*explore, "--out", "first", cwd=folder),
            "explore again": _run(*explore, "--out", "second", cwd=folder),
        }
        seconds["clone to first page"] = sum(list(seconds.values())[:4])
        _run(*pip, "-c", "constraints.txt", ".[docs]", cwd=clone)
        seconds["docs"] = _run(environment / "bin" / "sphinx-build", "-E", "-q", "-W", "docs", "html", cwd=clone)
        _run(environment / "bin" / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, clone)
        (wheel,) = Path(folder).glob("*.whl")
        figures: dict[str, Any] = {
            "photos": sum(file.is_file() for file in a.photos.rglob("*")),
            "seconds": seconds,
            "bytes": {"wheel": wheel.stat().st_size, "page": Path(folder, "first", "report.html").stat().st_size},
        }
    print(figures)
    print(f"-> {record('first_page', figures).name}")


def _run(*command: object, cwd: str | Path | None = None) -> float:
    """Return the seconds of a command that has to succeed."""
    return seconds_of(lambda: subprocess.run([str(word) for word in command], cwd=cwd, check=True, stdout=subprocess.DEVNULL))


if __name__ == "__main__":
    main()
