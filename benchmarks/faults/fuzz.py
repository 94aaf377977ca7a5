"""Mutated files through every reader: each is read, or refused with one of the package's errors, in bounded time and memory.

    python -m benchmarks.faults.fuzz [--minutes 10] [--targets images tar parquet array toml checkpoint names labels] [--keep FOLDER]

Mutations flip, cut, repeat, remove and insert bytes, and put other numbers, signs and brackets in the place of those in texts. Anything else that
is raised is a finding, and so is a file that takes more than ten seconds; its bytes are kept in --keep. Results: results/faults-fuzz.json.
"""

from __future__ import annotations

import io
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.command_line import parser
from benchmarks.record import record
from selfcluster.data.label_files import set_labels
from selfcluster.data.readers.decoding import opened, upright_pixels
from selfcluster.data.readers.files import OpenFile
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.readers.tar_headers import members_of
from selfcluster.data.sources import open_data
from selfcluster.errors import SelfclusterError
from selfcluster.inference.names import read_names
from selfcluster.runs.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from selfcluster.settings.config import DataSettings, default_config, flatten, replace
from selfcluster.settings.toml import read_toml, to_toml
from selfcluster.settings.validation import check_values

_SLOW = 10.0
_MEMORY = 8 * 2**30
"""Bytes of address space beyond that of the start."""
_ODD = [
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x00" * 8,
    b"-1",
    b"1e999",
    b"%d" % 2**70,
    b"true",
    b"null",
    b"nan",
    b"=1+1",
    b'"',
    b"\r",
    b"\n",
]
_WORDS = [
    b"-1",
    b"0",
    b"1e999",
    b"%d" % 2**70,
    b"true",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"[" * 3000,
    b"{'a':" * 50,
    b"../../x",
    b"\xff\xfe",
    b"99999999999",
]


def images() -> list[bytes]:
    """Return small images of several formats and modes."""
    found = []
    rng = np.random.default_rng(0)
    for mode, formats in {
        "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "TGA", "AVIF"),
        "RGBA": ("PNG", "WEBP", "TIFF"),
        "P": ("PNG", "GIF"),
        "I;16": ("PNG", "TIFF"),
        "1": ("PNG", "TIFF"),
    }.items():
        for kind in formats:
            file = io.BytesIO()
            base = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
            picture = Image.fromarray(rng.integers(0, 65536, (24, 20), dtype=np.uint16)) if mode == "I;16" else base.convert(mode)
            try:
                picture.save(file, kind)
            except (OSError, KeyError):
                continue  # not built into this Pillow
            found.append(file.getvalue())
    return found


def tars() -> list[bytes]:
    found, image = [], images()[0]
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name in ("a.jpg", "x" * 150 + "/é.png", "b.cls"):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(image), 1.5
                archive.addfile(member, io.BytesIO(image))
        found.append(file.getvalue())
    return found


def parquets() -> list[bytes]:
    found = []
    for column in (images()[:8], [{"bytes": content, "path": "x"} for content in images()[:8]]):
        for how in ("none", "snappy", "zstd"):
            file = io.BytesIO()
            table = pa.table({"image": pa.array(column), "label": np.arange(8)})
            meta = {
                b"huggingface": b'{"info": {"features": {"label": {"names": ["a","b","c","d","e","f","g","h"], "_type": "ClassLabel"}}}}'
            }
            pq.write_table(table.replace_schema_metadata(meta), file, compression=how, row_group_size=3)
            found.append(file.getvalue())
    return found


def mutated(seeds: list[bytes], draw: random.Random, *, is_text: bool) -> bytes:
    """Return one of the seeds with one to four mutations."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 4)):
        n = max(1, len(content))
        begin = draw.randrange(n)
        end = min(n, begin + draw.choice([1, 2, 4, 16, 64, 512]))
        match draw.randrange(8 if is_text else 6):
            case 0:
                for place in range(begin, min(end, len(content))):
                    content[place] ^= 1 << draw.randrange(8)
            case 1:
                del content[begin:]
            case 2:
                del content[begin:end]
            case 3:
                content[begin:begin] = content[begin:end] * draw.choice([1, 2, 50])
            case 4:
                odd = draw.choice(_ODD)
                content[begin : begin + len(odd)] = odd
            case 5:
                content[begin:begin] = draw.randbytes(draw.choice([1, 4, 32]))
            case _:
                tokens = list(re.finditer(rb"[\w.+-]+|\"[^\"]*\"", bytes(content)))
                if tokens:
                    token = draw.choice(tokens)
                    content[token.start() : token.end()] = draw.choice(_WORDS)
    return bytes(content)


def targets(folder: Path) -> dict[str, tuple[list[bytes], bool, Callable[[bytes], object]]]:
    """Return for each reader its seeds, whether they are text, and the reading of a mutated one."""

    def decode(content: bytes) -> None:
        with opened(content, 1.0) as image:
            upright_pixels(image)

    def packed(ending: str) -> Callable[[bytes], None]:
        def read(content: bytes) -> None:
            file = folder / f"x{ending}"
            file.write_bytes(content)
            if ending == ".tar":
                list(members_of(OpenFile(file), "x.tar"))
            found = open_data(str(file), DataSettings()).images
            for index in range(min(len(found), 3)):
                found.decode(index)
            found.paths()

        return read

    def toml(content: bytes) -> None:
        (folder / "x.toml").write_bytes(content)
        read = read_toml(folder / "x.toml")
        check_values(replace(default_config(read.method or "swav"), read.settings))

    run = folder / "run"
    save_checkpoint(run, {"model": {"w": torch.ones(3)}, "plan": {}}, CheckpointState(5, 1, 2, 3.0, {1: "broken"}, {"lr": 1.0}))
    state, last = run / "checkpoints" / "5" / "state.json", run / "checkpoints" / "last.json"
    whole = {file: file.read_bytes() for file in (state, last, state.with_name("model.safetensors"))}

    def checkpoint(content: bytes) -> None:
        target = state if b"version" in content else last if content[:1] == b"{" else state.with_name("model.safetensors")
        for file, before in whole.items():
            file.write_bytes(content if file == target else before)
        load_checkpoint(run)

    table = pa.table({"path": ["a.png", "=b.png", "c/d.png"], "cluster": [0, 1, 1], "centroid": [0, 1, 2], "name": ["x", None, None]})

    def names(content: bytes) -> None:
        (folder / "names.csv").write_bytes(content)
        read_names(folder / "names.csv", table, ("x", ""))

    def labels(content: bytes) -> None:
        (folder / "labels.csv").write_bytes(content)
        set_labels(ArrayImages(np.zeros((3, 8, 8), np.uint8)), str(folder / "labels.csv"))

    arrays = []
    for save in (np.save, lambda file, array: np.savez(file, images=array, labels=np.arange(4))):
        file = io.BytesIO()
        save(file, np.zeros((4, 8, 8, 3), np.uint8))
        arrays.append(file.getvalue())

    def array(content: bytes) -> None:
        file = folder / ("x.npz" if content[:1] == b"P" else "x.npy")
        file.write_bytes(content)
        open_data(str(file), DataSettings()).images.decode(0)

    config = default_config("swav")
    return {
        "images": (images(), False, decode),
        "tar": (tars(), False, packed(".tar")),
        "parquet": (parquets(), False, packed(".parquet")),
        "array": (arrays, False, array),
        "toml": ([to_toml(config, dict.fromkeys(flatten(config), "fuzz"), images="x").encode()], True, toml),
        "checkpoint": (list(whole.values()), True, checkpoint),
        "names": ([b"path,cluster,name\r\na.png,0,cats\r\n'=b.png,1,\r\n", b"cluster,name\n0,cats\n1,dogs\n"], True, names),
        "labels": ([b"path,label\n0,cat\n1,dog\n2,\n"], True, labels),
    }


def fuzzed(name: str, minutes: float, seed: int, keep: Path) -> dict[str, Any]:
    """Mutate files for one reader, and return what came of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024  # type: ignore[union-attr]
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, hard))
    findings, counts = dict[str, int](), {"read": 0, "refused": 0}
    draw, began, slowest = random.Random(seed), time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        seeds, is_text, read = targets(Path(folder))[name]
        while time.monotonic() - began < 60 * minutes:
            content, start, finding = mutated(seeds, draw, is_text=is_text), time.monotonic(), ""
            (keep / f"{name}-last").write_bytes(content)
            try:
                read(content)
                counts["read"] += 1
            except SelfclusterError as error:
                counts["refused"] += 1
                if "\n" in str(error):
                    finding = f"a message of several lines: {str(error)[:80]!r}"
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                finding = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:80]!r}"
            slowest = max(slowest, time.monotonic() - start)
            if time.monotonic() - start > _SLOW:
                finding = f"took {time.monotonic() - start:.0f} s"
            if finding:
                if finding not in findings:
                    shutil.copy(keep / f"{name}-last", keep / f"{name}-{seed}-{len(findings)}")
                findings[finding] = findings.get(finding, 0) + 1
    return {**counts, "slowest_seconds": slowest, "findings": findings}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--targets", nargs="*", default=["images", "tar", "parquet", "array", "toml", "checkpoint", "names", "labels"])
    p.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "selfcluster-fuzz")
    p.add_argument("--seed", type=int, help=SUPPRESS)
    a = p.parse_args()
    a.keep.mkdir(exist_ok=True)
    if a.seed is not None:  # a process of its own for each target, since a library may end it
        print(json.dumps(fuzzed(a.targets[0], a.minutes, a.seed, a.keep)))
        return
    results: dict[str, Any] = {}
    for name in a.targets:
        of_target: dict[str, Any] = {"read": 0, "refused": 0, "slowest_seconds": 0.0, "findings": {}}
        deadline, seed = time.monotonic() + 60 * a.minutes, 0
        while (minutes := (deadline - time.monotonic()) / 60) > 0.01:
            command = [
                sys.executable,
                "-m",
                "benchmarks.faults.fuzz",
                "--targets",
                name,
                "--minutes",
                f"{minutes}",
                "--keep",
                str(a.keep),
                "--seed",
                str(seed),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                found = {"findings": {f"the process ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1][:120]}": 1}}
                shutil.copy(a.keep / f"{name}-last", a.keep / f"{name}-{seed}-ended")
            else:
                found = json.loads(done.stdout.splitlines()[-1])
            for key in ("read", "refused"):
                of_target[key] += found.get(key, 0)
            of_target["slowest_seconds"] = max(of_target["slowest_seconds"], found.get("slowest_seconds", 0.0))
            for finding, times in found["findings"].items():
                of_target["findings"][finding] = of_target["findings"].get(finding, 0) + times
            seed += 1
        results[name] = of_target
        print(name, of_target, flush=True)
    print(f"-> {record('faults-fuzz', {'minutes': a.minutes, 'results': results}).name}")


if __name__ == "__main__":
    main()
