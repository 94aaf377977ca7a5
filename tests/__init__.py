"""What has to be settled before torch is imported, in this process and in the ranks that tests start.

`SELFCLUSTER_TEST_BF16=1` tests this machine as one with AMX, where `--precision auto` is bf16. Under pytest-xdist each worker keeps to one
core: two workers with two threads each would wait for each other most of the time.
"""

import os
import re

if (worker := re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker[1]) % len(cores)]})

if os.environ.get("SELFCLUSTER_TEST_BF16"):
    import torch

    torch.cpu._is_amx_tile_supported = lambda: True
