"""A run and its folder, and the public doors `train` and `load`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from selfcluster import distributed, loop
from selfcluster.checkpoint import load_checkpoint, write_atomically
from selfcluster.config import Config, DataSettings, default_config, flatten, replace
from selfcluster.data import Data, open_data
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.features import Layer, extract_features
from selfcluster.log import Log, check_extras, cut_back, duration, read_rows, table
from selfcluster.model import ClusterModel
from selfcluster.recipe import look_at
from selfcluster.resolve import Resolved, read_toml, resolve, resumed, to_toml

_OWN_FILES = [
    "config.toml",
    "environment.json",
    "metrics.jsonl",
    "log.txt",
    "skipped.csv",
    "data.parquet",
    "clusters.parquet",
    "report.html",
    "model",
    "checkpoints",
]


class Run:
    """A trained (or half-trained) run in its folder.

    Attributes:
        path: the folder.
        config: all settings.
        model: encoder, head and prototypes, in eval mode.
        metrics: the rows of metrics.jsonl, oldest first.
    """

    def __init__(self, path: Path, config: Config[Any], images: str, model: ClusterModel) -> None:
        self.path, self.config, self.model = path, config, model.eval()
        self.images = images
        """Where the images were, or "" for an array that was passed in."""
        self.device = next(model.parameters()).device

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, method={self.config.method!r}, encoder={self.config.model.encoder!r})"

    @property
    def metrics(self) -> list[dict[str, float]]:
        return read_rows(self.path / "metrics.jsonl")

    @property
    def pixels(self) -> int:
        """Side to which images are resized for this encoder outside training."""
        return self.config.crops.crop_pixels[0]

    def data(self, given: Any = None) -> Data:
        """The run's own data, or other data under the run's limits.

        Raises:
            DataError: the run was trained on an array, which has to be given again.
        """
        if given is None and not self.images:
            raise DataError(f"run {str(self.path)!r} was trained on an array that is not kept; give the images again")
        return open_data(
            self.images if given is None else given,
            self.config.data if given is None else DataSettings(max_megapixels=self.config.data.max_megapixels),
        )

    def trained_on(self) -> NDArray[np.int64]:
        """Indices of the images that it was trained on; the others were kept out."""
        return np.flatnonzero(pq.read_table(self.path / "data.parquet")["trained_on"].to_numpy())

    def embed(self, images: Any = None, *, layer: Layer = "features") -> NDArray[np.float32]:
        """Features of each image, in the order of the data.

        Args:
            images: anything that `train` takes; None for the run's own.
            layer: "features" (the encoder's output) or "head" (z, of unit norm).
        Returns:
            (n, F) float32; rows of images that cannot be read are NaN.
        """
        data = self.data(images)
        self.model.eval()

        def to_embeddings(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.model.head(self.model.encoder(x)).float())

        return extract_features(
            self.model.encoder if layer == "features" else to_embeddings,
            data.images,
            pixels=self.pixels,
            device=self.device,
            precision=loop.precision_of(self.config, self.device),
            workers=loop.n_workers(self.config, data),
        ).numpy()


def load(path: str | Path, *, device: str = "cpu") -> Run:
    """The run in this folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: it is no run, has no checkpoint yet, or is damaged.
    """
    folder = Path(path)
    config, images = _stored(folder)
    tensors, _ = load_checkpoint(folder / "checkpoints")
    model = loop.build_model(replace(config, {"init": "random"}))
    model.load_state_dict(tensors["model"])
    return Run(folder, config, images, model.to(distributed.start(device)))


def _stored(folder: Path) -> tuple[Config[Any], str]:
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{str(folder)!r} is not a run folder: it holds no config.toml")
    top, settings = read_toml(folder / "config.toml")
    return replace(default_config(top["method"]), settings), top["images"]


def train(
    data: Any = None,
    *,
    method: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> Run | None:
    """Train an encoder on unlabelled images.

    Args:
        data: a folder of images, a .npy or .npz file, an array (N, H, W) or (N, H, W, 3) of uint8, or the name of a set.
        method: "swav".
        out: the run's folder; None for runs/<data>-<method>-<n>.
        preset, config: a named preset, and a TOML file of settings.
        resume: go on with the run in `out`.
        overwrite: replace the run in `out`.
        dry_run: print the recipe with an estimate of time and memory, and train nothing.
        settings: any setting by its name, such as epochs=50.
    Returns:
        the trained run; None after a dry run.
    Raises:
        ConfigError, DataError, CheckpointError: see the messages.
        CollapseError: training has died.
    """
    device = distributed.start(settings.get("device", "auto"))
    if resume:
        return _resume(data, out, settings, device)
    top, from_file = read_toml(Path(config)) if config is not None else ({}, {})
    method = method or top.get("method") or "swav"
    if data is None:
        data = top.get("images")
    if data is None or (isinstance(data, str) and not data):
        raise DataError("no data given; name a folder of images, a .npy file, or a set such as digits")
    known_so_far = replace(default_config(method), {**from_file, **settings})
    opened = open_data(data, known_so_far.data)
    n = len(opened.trained_on(known_so_far.data, known_so_far.run.seed))
    resolved = resolve(method, look_at(opened.images, n, device), preset=preset or top.get("preset"), file=from_file, flags=settings)
    t = loop.build(resolved.config, opened, device)
    folder = _claim(out, opened.name, resolved.config.method, overwrite=overwrite)
    check_extras(resolved.config.run)
    say = Log(None, resolved.config.run).say
    for note in opened.notes:
        say(note)
    say(describe(resolved))
    if dry_run:
        say(_estimate(t))
        return None
    if resolved.config.optim.max_minutes:
        resolved = _fitted_to_time(resolved, t, say)
        t = loop.build(resolved.config, opened, device)
    if distributed.rank() == 0:
        _prepare(folder, resolved, opened, overwrite=overwrite)
    distributed.barrier()
    return _train(t, folder, opened)


def _resume(data: Any, out: str | Path | None, settings: Mapping[str, Any], device: torch.device) -> Run:
    if out is None:
        raise ConfigError("--resume needs --out RUN, the folder of the run to go on with")
    folder = Path(out)
    stored, images = _stored(folder)
    config = resumed(stored, settings)
    opened = open_data(images if data is None else data, config.data)
    _same_data(folder, opened)
    t = loop.build(replace(config, {"init": "random"}), opened, device)
    check_extras(config.run)
    t.config = config
    loop.restore(t, folder)
    if distributed.rank() == 0:
        cut_back(folder / "metrics.jsonl", t.state.step)
    distributed.barrier()
    return _train(t, folder, opened)


def _train(t: loop.Training, folder: Path, data: Data) -> Run:
    log = Log(folder, t.config.run)
    try:
        log.say(
            f"{'resuming' if t.state.step else 'training'} {folder} on {t.device} in {loop.precision_of(t.config, t.device)}".replace(
                "torch.", ""
            )
        )
        loop.fit(t, log, folder)
        t.loader.broken = distributed.joined(t.loader.broken)
        if distributed.rank() == 0:
            _write_model(folder, t)
            log.say(f"trained {t.total_steps:,} steps in {duration(t.state.seconds)}: {folder}")
    finally:
        t.loader.close()
        if distributed.rank() == 0 and t.loader.broken:
            _write_skipped(folder, t.loader.broken, data)
            log.say(f"{len(t.loader.broken):,} images could not be read; see {folder / 'skipped.csv'}")
        log.close()
    return Run(folder, t.config, data.where, t.model)


def describe(resolved: Resolved) -> str:
    """The settings that somebody chose: value, and where it came from; a line each, or one for many of one origin."""
    values = flatten(resolved.config)
    chosen = [(name, origin) for name, origin in resolved.origins.items() if origin != "default"]
    rows = []
    for origin, group in groupby(chosen, key=lambda item: item[1]):
        names = [name for name, _ in group]
        if len(names) > 3 and origin.startswith("recipe"):
            rows.append(("  " + names[0] + " ...", "", f"{origin} ({', '.join(f'{name} {_short(values[name])}' for name in names)})"))
        else:
            rows += [("  " + name, _short(values[name]), origin) for name in names]
    return f"{resolved.config.method}:\n" + table(rows)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_short(part) if not isinstance(part, tuple) else "-".join(map(str, part)) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _claim(out: str | Path | None, name: str, method: str, *, overwrite: bool) -> Path:
    """The run's folder, which is free or may be overwritten.

    Raises:
        CheckpointError: it is in use, or is no run's.
    """
    if out is None:
        n = 1
        while (folder := Path("runs") / f"{name}-{method}-{n}").exists():
            n += 1
        return folder
    folder = Path(out)
    if folder.is_file():
        raise CheckpointError(f"{str(folder)!r} is a file; choose another --out")
    if not folder.exists() or not any(folder.iterdir()):
        return folder
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{str(folder)!r} holds files that are not a run's; choose another --out")
    if not overwrite:
        raise CheckpointError(f"{str(folder)!r} holds a run already; go on with it by --resume, or replace it by --overwrite")
    return folder


def _prepare(folder: Path, resolved: Resolved, data: Data, *, overwrite: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for name in _OWN_FILES:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    environment = {
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "ranks": distributed.n_ranks(),
        "versions": {name: _version(name) for name in ("selfcluster", "torch", "torchvision", "timm", "numpy")},
    }
    write_atomically(folder / "environment.json", json.dumps(environment, indent=1).encode())
    _write_data(folder, resolved.config, data)
    write_atomically(folder / "config.toml", to_toml(resolved, data.where).encode())


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _write_data(folder: Path, config: Config[Any], data: Data) -> None:
    """data.parquet: every image's path and side of the split, and the digest of them all."""
    trains = np.zeros(len(data.images), dtype=bool)
    trains[data.trained_on(config.data, config.run.seed)] = True
    columns = {"path": _paths(data), "trained_on": trains}
    contents = pa.table(columns).replace_schema_metadata({"digest": data.images.digest()})
    pq.write_table(contents, folder / "data.parquet", compression="zstd")


def _paths(data: Data) -> list[str]:
    return [_printable(data.images.path(index)) for index in range(len(data.images))]


def _printable(path: str) -> str:
    """The path with bytes that are no UTF-8 spelt out, for files that hold text."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _same_data(folder: Path, data: Data) -> None:
    """Raises DataError where images were added, lost or renamed since the run began; three of them are named."""
    stored = pq.read_table(folder / "data.parquet")
    if stored.schema.metadata[b"digest"].decode() == data.images.digest():
        return
    before, now = set(stored["path"].to_pylist()), set(_paths(data))
    lost, added = sorted(before - now), sorted(now - before)
    named = ", ".join([f"-{path}" for path in lost[:3]] + [f"+{path}" for path in added[:3]][: 3 - len(lost[:3])])
    what = f"{len(lost):,} images lost and {len(added):,} added ({named})" if named else "the images themselves have changed"
    raise DataError(f"the data of {str(folder)!r} is not what it was: {what}; restore it, or start a new run")


def _write_model(folder: Path, t: loop.Training) -> None:
    """model/: the encoder as `timm.create_model('local-dir:...')` loads it."""
    target = folder / "model"
    target.mkdir(exist_ok=True)
    encoder = {name: tensor.detach().cpu().contiguous() for name, tensor in t.model.encoder.state_dict().items()}
    cfg = dict(getattr(t.model.encoder, "pretrained_cfg", {}))
    side = t.config.crops.crop_pixels[0]
    kept = {key: cfg[key] for key in ("pool_size", "first_conv", "classifier") if key in cfg}
    from selfcluster.crops import DEVIATION, MEAN

    description = {
        "architecture": t.config.model.encoder.split(".")[0],
        "num_classes": 0,
        "num_features": t.model.n_features,
        "pretrained_cfg": {
            **kept,
            "input_size": [3, side, side],
            "mean": list(MEAN),
            "std": list(DEVIATION),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 0,
            "tag": "selfcluster",
        },
    }
    write_atomically(target / "model.safetensors", save(encoder, metadata={"format": "pt"}))
    write_atomically(target / "config.json", json.dumps(description, indent=1).encode())


def _write_skipped(folder: Path, broken: Mapping[int, str], data: Data) -> None:
    rows = sorted(broken.items())
    paths = pa.table({"path": [_printable(data.images.path(index)) for index, _ in rows], "reason": [reason for _, reason in rows]})
    pa.csv.write_csv(paths, folder / "skipped.csv")


def _fitted_to_time(resolved: Resolved, t: loop.Training, say: Callable[[str], None]) -> Resolved:
    """With max_minutes, max_steps is what this machine does in that time; `t` is used up to find out."""
    minutes = resolved.config.optim.max_minutes
    seconds = loop.seconds_per_step(t, at_most=6 * minutes)
    # All ranks take the slowest one's word.
    seconds = float(distributed.all_reduce_max(torch.tensor(seconds, device=t.device)))
    steps = max(1, int(0.95 * 60 * minutes / seconds))
    if steps >= t.total_steps:
        say(
            f"max_minutes {minutes:g}: the full schedule of {t.total_steps:,} steps takes about {duration(seconds * t.total_steps)}, so it stays"
        )
        return resolved
    say(f"max_minutes {minutes:g}: {seconds:.2f} s a step, so the schedule is fitted to {steps:,} of {t.total_steps:,} steps")
    origin = f"max_minutes {minutes:g} at {seconds:.2f} s a step"
    return Resolved(replace(resolved.config, {"max_steps": steps}), {**resolved.origins, "max_steps": origin})


def _estimate(t: loop.Training) -> str:
    """Time and memory of the run, from a few steps on this machine; `t` is used up."""
    seconds, batch, minutes = loop.seconds_per_step(t), t.config.optim.batch, t.config.optim.max_minutes
    total = min(seconds * t.total_steps, 60 * minutes or float("inf"))
    parameters = sum(p.numel() for p in t.model.parameters())
    return (
        f"estimate: {parameters / 1e6:.1f} million parameters; {seconds:.2f} s a step, {batch / seconds:,.0f} images/s; "
        f"{t.total_steps:,} steps in about {duration(total)}; {_peak_memory(t.device) / 2**30:.1f} GiB of memory"
    )


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
