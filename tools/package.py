# /// script
# dependencies = ["build[uv]", "readme-renderer[md]", "twine", "uv"]
# ///
"""Build wheel and sdist, check them, and use the wheel in an empty environment.

    uv run tools/package.py [--python python3.13] [--resolution lowest-direct] [--tests tests/clustering ...]

`make package` calls it. UV_TORCH_BACKEND=cpu takes torch from the index of its CPU builds.
"""

from __future__ import annotations

import argparse
import email
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

import readme_renderer.markdown
import uv

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def main() -> None:
    """Build, check and use the package."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--python", default="python3", help="interpreter of the environment")
    p.add_argument(
        "--resolution", choices=["highest", "lowest-direct"], default="highest", help="newest or oldest versions of the dependencies"
    )
    p.add_argument("--tests", nargs="*", default=[], help="tests to run in the environment")
    a = p.parse_args()
    wheel, sdist = build()
    check_contents(wheel, sdist)
    check_description(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder, "environment"), wheel, a.python, a.resolution, for_tests=bool(a.tests))
        run(python, "-P", ROOT / "tools" / "smoke.py", cwd=folder)
        if a.tests:
            run(python, "-m", "pytest", "-p", "no:cacheprovider", *a.tests)


def build() -> tuple[Path, Path]:
    """Build the sdist, a wheel from it and another from the tree; return wheel and sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", DIST)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--installer", "uv", "--wheel", "--outdir", folder)
        assert checksums(wheel) == checksums(Path(folder, wheel.name)), "the wheel from the sdist differs from the wheel from the tree"
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Check that the wheel holds the tracked files of the package and nothing else, and the sdist what the tests need."""
    tracked = set(subprocess.check_output(["git", "ls-files", "selfcluster"], cwd=ROOT, text=True).splitlines())
    packed = {name for name in checksums(wheel) if ".dist-info/" not in name}
    assert packed == tracked, f"wheel and repository differ: {sorted(packed ^ tracked)}"
    with tarfile.open(sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    assert {"selfcluster", "tests", "docs", "benchmarks", "README.md", "LICENSE", "CHANGELOG.md"} <= top, (
        f"the sdist holds only {sorted(top)}"
    )


def check_description(wheel: Path) -> None:
    """Check that the description, as a package index shows it, has absolute links and the code of the README."""
    with ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = email.message_from_string(archive.read(metadata).decode()).get_payload()
    targets = re.findall(r'(?:href|src)="([^"]*)"', readme_renderer.markdown.render(description) or "")
    relative = [target for target in targets if not target.startswith(("https://", "#user-content-"))]  # those of headings are added
    assert targets, "the description has no links"
    assert not relative, f"relative links: {relative}"
    code = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
    assert code.findall(description) == code.findall((ROOT / "README.md").read_text()), "a replaced link was code"


def checksums(wheel: Path) -> dict[str, int]:
    """Return the checksum of each file of a wheel."""
    with ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def install(folder: Path, wheel: Path, python: str, resolution: str, *, for_tests: bool) -> Path:
    """Create an environment with the wheel and its dependencies, newest or oldest; return its interpreter."""
    run(uv.find_uv_bin(), "venv", "--quiet", "--python", python, folder)
    pip = (uv.find_uv_bin(), "pip", "install", "--quiet", "--python", folder, "--only-binary", ":all:")
    # From the project's file, since "lowest-direct" means the requirements that are given, not those of a wheel that is.
    run(*pip, "--resolution", resolution, "--requirement", "pyproject.toml", *(["--extra", "dev"] if for_tests else []))
    run(*pip, wheel)
    return folder / "bin" / "python"


def run(*command: object, cwd: str | Path = ROOT) -> None:
    """Run a command, and stop if it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=cwd, check=True)


if __name__ == "__main__":
    main()
