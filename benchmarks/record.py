"""Recorded results: figures with the command, commit, versions and machine that produced them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_CODE = (":/", ":(exclude,top)benchmarks/results")
"""Everything but what other measurements have written."""


def record(name: str, figures: dict[str, Any]) -> Path:
    """Write the figures to results/<name>.json and return this path."""
    content = {
        "command": ["python", "-m", _module(), *(Path(a).name if os.sep in a else a for a in sys.argv[1:])],
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "--untracked-files=no", "--", *_CODE) else ""),
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


def _module() -> str:
    """Return the name of the module that runs."""
    return ".".join(Path(sys.argv[0]).resolve().relative_to(RESULTS.parents[1].resolve()).with_suffix("").parts)


def recorded(name: str) -> dict[str, Any]:
    """Return the content of results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def machine() -> dict[str, Any]:
    """Describe this machine."""
    file = Path("/proc/cpuinfo")
    info = file.read_text() if file.is_file() else ""
    models = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "features": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in info],
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the minimum, the maximum and the number of values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def seconds_of(call: Callable[[], object]) -> float:
    """Return the duration of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
