"""What every recorded result holds beside its figures: command, commit, versions, machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def record(name: str, figures: dict[str, Any]) -> Path:
    """The figures are in results/<name>.json."""
    content = {
        "command": ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *(Path(a).name if os.sep in a else a for a in sys.argv[1:])],
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("torch", "torchvision", "timm", "numpy", "scikit-learn")},
        },
        "machine": machine(),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file


def recorded(name: str) -> dict[str, Any]:
    """The content of results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    flags = " ".join(_cpuinfo())
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "features": features, "threads": torch.get_num_threads(), "gpu": gpu}


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest, and how many."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
