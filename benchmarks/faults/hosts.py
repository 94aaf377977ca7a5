"""Two hosts train together; one is lost, and comes back: two network namespaces of this machine, joined by a veth pair.

    python -m benchmarks.faults.hosts [--trials 3]      # as root on Linux

Both start `torchrun --nnodes 2 --max-restarts` with `--resume auto` and the same run folder. The second host's processes are killed (or its link
goes down), and it is started again some seconds later. The run must end with the losses of an undisturbed one. Results: results/faults-hosts.json.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser
from benchmarks.faults.ranks import steps_of, wait_for_step
from benchmarks.record import record

_HOSTS = {"selfcluster-a": "10.77.0.1", "selfcluster-b": "10.77.0.2"}
_SETTINGS = (
    "digits --device cpu --precision float32 --encoder resnet10_small_quarter_s2 --batch 64 --log-steps 1 --max-steps 120 --threads 1"
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    a, b = _HOSTS
    for host in _HOSTS:
        ip("netns", "add", host)
    try:
        ip("link", "add", "sc-a", "netns", a, "type", "veth", "peer", "name", "sc-b", "netns", b)
        for (host, address), link in zip(_HOSTS.items(), ("sc-a", "sc-b"), strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", host, "link", "set", link, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in _HOSTS:
            ip("netns", "del", host)


def kill_all(host: str) -> None:
    """Kill the processes of a host."""
    found = subprocess.run(["ip", "netns", "pids", host], check=True, capture_output=True, text=True).stdout.split()
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def launched(host: str, out: Path, log: Path) -> subprocess.Popen[bytes]:
    launcher = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --max-restarts 5 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29555 --rdzv-id {out.name} --local-addr {_HOSTS[host]} --rdzv-conf is_host={int(host.endswith('a'))}"
    command = [sys.executable, *launcher.split(), "-m", "selfcluster", "train", *_SETTINGS.split(), "--out", str(out), "--resume", "auto"]
    link = "sc-" + host[-1]
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *command, "--checkpoint-minutes", "0", "--rank-timeout", "10"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def trained(folder: Path, name: str, loss: str | None) -> dict[str, Any]:
    """Train on both hosts, and lose the second at step 30 in this way, for 25 seconds."""
    b = list(_HOSTS)[1]
    out, began = folder / name, time.monotonic()
    logs = [folder / f"{name}-{host}.log" for host in _HOSTS]
    processes = [launched(host, out, log) for host, log in zip(_HOSTS, logs, strict=True)]
    try:
        if loss is not None:
            wait_for_step(out, 30)
            if loss == "killed":
                kill_all(b)
                processes[1].wait()
            else:
                ip("-n", b, "link", "set", "sc-b", "down")
            time.sleep(25)
            ip("-n", b, "link", "set", "sc-b", "up")
            if processes[1].poll() is not None:
                processes[1] = launched(b, out, logs[1])
        statuses = [process.wait(timeout=100) for process in processes]
    except (subprocess.TimeoutExpired, TimeoutError):
        statuses = [process.poll() for process in processes]
    finally:
        for host in _HOSTS:
            kill_all(host)
    said = [line for log in logs for line in log.read_text().splitlines() if line.startswith("selfcluster: error")]
    return {"statuses": statuses, "seconds": time.monotonic() - began, "losses": steps_of(out), "said": said}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--trials", type=int, default=3)
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, namespaces():
        whole = trained(Path(name), "whole", None)
        print("undisturbed", whole["statuses"], f"{whole['seconds']:.0f} s, {len(whole['losses'])} steps", flush=True)
        for loss in ("killed", "link down"):
            for trial in range(a.trials):
                row = trained(Path(name), f"{loss.replace(' ', '-')}-{trial}", loss)
                losses = row.pop("losses")
                rows.append({"lost": loss, **row, "same_losses": len(losses) == 120 and losses == whole["losses"], "steps": len(losses)})
                print(rows[-1], flush=True)
    print(f"-> {record('faults-hosts', {'trials': len(rows), 'right': sum(row['same_losses'] for row in rows), 'rows': rows}).name}")


if __name__ == "__main__":
    main()
