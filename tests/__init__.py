"""Process settings that must precede the import of torch, in the tests and in the ranks they start.

`SELFCLUSTER_TEST_BF16=1` makes this machine appear to have AMX, where `--precision auto` means bf16. Under pytest-xdist, each worker is
pinned to one core: two workers with two threads each would mostly wait for each other.
"""

import os
import re

if (worker := re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker[1]) % len(cores)]})

if os.environ.get("SELFCLUSTER_TEST_BF16"):
    import torch

    torch.cpu._is_amx_tile_supported = lambda: True
