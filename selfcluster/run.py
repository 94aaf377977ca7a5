"""A run and its folder, and the public doors `train` and `load`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa
import torch

from selfcluster import clusters, distributed, loop, report, training
from selfcluster.capacity import largest_batch
from selfcluster.clustering.projection import Projection
from selfcluster.clusters import Clusters
from selfcluster.cost import Cost, measure
from selfcluster.data.inspect import look_at
from selfcluster.data.readers.cache import CachedImages
from selfcluster.data.sources import Data, open_data
from selfcluster.device import peak_memory, start
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.export import Exported, export
from selfcluster.formatting import duration, short, table
from selfcluster.models.features import Layer
from selfcluster.report.page import Limits
from selfcluster.runs import checkpoint, folder, weights
from selfcluster.runs.log import Log, check_extras, cut_back, say
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import DEFAULT_METHOD, default_config, flatten, replace
from selfcluster.settings.presets import method_of
from selfcluster.settings.resolve import Resolved, resolve, resumed
from selfcluster.settings.toml import read_toml
from selfcluster.settings.validation import check_values


@final
class Run(OpenRun):
    """A trained (or half-trained) run in its folder, and what can be done with it."""

    def cluster(
        self, images: Any = None, *, k: int | Literal["auto"] | None = None, seed: int = 0, projection: Projection = "pca"
    ) -> Clusters:
        """Every image in a cluster, see `clusters.cluster`; kept in the run's folder, for `assign` and the report."""
        folder.check_writable(self.path)
        found = clusters.cluster(self, images, k=k, seed=seed, projection=projection)
        clusters.keep(found, self.path)
        return found

    def assign(self, images: Any) -> pa.Table:
        """New images in the clusters that `cluster` has found, see `clusters.assign`."""
        return clusters.assign(self, images)

    def export(self, format: str, *, out: str | Path | None = None, layer: Layer = "features", overwrite: bool = False) -> Exported:
        """The network in a form that others read, checked against the run; see `selfcluster.export.export`."""
        return export(self.path, self.config, self.model, format, out=out, layer=layer, overwrite=overwrite)

    def report(
        self,
        images: Any = None,
        *,
        out: str | Path | None = None,
        k: int | Literal["auto"] | None = None,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> Path:
        """One page about the run that opens from disk, see `report.report`."""
        return report.report(self, images, out=out, k=k, seed=seed, limits=limits)


def load(path: str | Path, *, device: str = "cpu") -> Run:
    """The run in this folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: it is no run, has no checkpoint yet, or is damaged.
    """
    config, images, model = folder.read_model(Path(path))
    return Run(Path(path), config, images, model.to(start(device)))


def train(
    data: Any = None,
    *,
    method: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Train an encoder on unlabelled images.

    Args:
        data: a folder of images, tar or parquet files (one, a folder of them, a pattern), a .npy or .npz file, an array (N, H, W) or (N, H, W, 3) of uint8, or the name of a set.
        method: "swav", "deepcluster", "deepcluster-v2" or "sela-v2"; None for that of the preset or the TOML file, or else "swav".
        out: the run's folder; None for runs/<data>-<method>-<n>.
        preset, config: a named preset, and a TOML file of settings (whose method and images count where they are not given here).
        resume: go on with the run in `out`.
        overwrite: replace the run in `out`.
        settings: any setting by its name, such as epochs=50; batch="auto" finds the largest that fits.
    Returns:
        the trained run.
    Raises:
        ConfigError, DataError, CheckpointError: see the messages.
        CollapseError: training has died.
    """
    if resume:
        if preset is not None or config is not None or overwrite:
            raise ConfigError("--resume goes on with the settings of the run; leave --preset, --config and --overwrite out")
        return _resume(data, method, out, settings)
    settle, opened, device = _look(data, method, preset, config, settings)
    resolved = settle({})
    t = training.build(resolved.config, opened, device)
    path = _claimed(out, opened.name, resolved.config.method, overwrite=overwrite)
    _announce(resolved, opened)
    if resolved.config.optim.max_minutes:
        resolved = _fitted_to_time(resolved, t, opened, settle)
        t = training.build(resolved.config, opened, device)
    if distributed.rank() == 0:
        folder.prepare(path, resolved, opened)
    distributed.barrier()
    return _train(t, path, opened)


def dry_run(data: Any, *, method: str | None = None, preset: str | None = None, config: str | Path | None = None, **settings: Any) -> None:
    """Print the settings that `train` would use and why, with an estimate of time and memory; train and write nothing."""
    settle, opened, device = _look(data, method, preset, config, settings)
    resolved = settle({})
    t = training.build(resolved.config, opened, device)
    _announce(resolved, opened)
    say(_estimate(t, opened))


Settle = Callable[[Mapping[str, Any]], Resolved]
"""From settings that were found out in the meantime to the config of the run."""


def _look(
    data: Any, method: str | None, preset: str | None, file: str | Path | None, flags: Mapping[str, Any]
) -> tuple[Settle, Data, torch.device]:
    """The images and the device of a new run, and what settles its config."""
    top, from_file = read_toml(Path(file)) if file is not None else ({}, {})
    preset = preset or top.get("preset")
    method = method or (method_of(preset) if preset is not None else top.get("method", DEFAULT_METHOD))
    from_file, flags = _absolute(from_file), _absolute(flags)
    if is_auto := flags.get("batch", from_file.get("batch")) == "auto":
        flags, from_file = ({name: value for name, value in given.items() if name != "batch"} for given in (flags, from_file))
    chosen = replace(default_config(method), {**from_file, **flags})
    check_values(chosen)
    check_extras(chosen.run)
    device = start(chosen.run.device)
    data = top.get("images") if data is None else data
    if data is None or (isinstance(data, str) and not data):
        raise DataError("no data given; name a folder of images, a .npy file, or a set such as digits")
    opened = open_data(data, chosen.data)
    facts = look_at(opened.images, len(opened.trained_on(chosen.data, chosen.run.seed)), device)
    followed = _network_of(chosen.model.init) if preset is None else {}
    followed = {name: value for name, value in followed.items() if name not in flags and name not in from_file}

    def settle(found: Mapping[str, Any]) -> Resolved:
        resolved = resolve(method, facts, preset=preset, file=from_file, flags={**followed, **flags, **found})
        return Resolved(resolved.config, {**resolved.origins, **dict.fromkeys(followed, "that of the run in init")})

    return _with_batch_that_fits(settle, opened, device) if is_auto else settle, opened, device


def _network_of(init: str) -> dict[str, Any]:
    """The encoder of the run that `init` names, since its weights fit no other; nothing where it names none."""
    path = Path(init).expanduser()
    if not (path / "config.toml").is_file():
        return {}
    network = folder.read_config(path)[0].model
    return {"encoder": network.encoder, **({"sobel": True} if network.sobel else {})}


def _with_batch_that_fits(settle: Settle, data: Data, device: torch.device) -> Settle:
    """The same, with the largest batch that fits; the rest of the recipe follows from it, such as lr."""
    say("batch auto: trying steps of more and more images")
    capacity = largest_batch(lambda batch: settle({"batch": batch} if batch else {}).config, data, device)
    origin = f"auto: {capacity.peak_bytes / 2**30:.1f} GiB, and {capacity.why}"

    def settled(found: Mapping[str, Any]) -> Resolved:
        resolved = settle({"batch": capacity.batch, **found})
        return Resolved(resolved.config, {**resolved.origins, "batch": origin})

    return settled


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with files by their absolute paths, so that the run can be resumed from elsewhere."""
    files = {name: str(Path(settings[name]).resolve()) for name in ("init", "labels") if name in settings and Path(settings[name]).exists()}
    return {**settings, **files}


def _claimed(out: str | Path | None, name: str, method: str, *, overwrite: bool) -> Path:
    """Rank 0's claim on a folder, on every rank; what it raises, all raise."""
    path, refused = None, None
    if distributed.rank() == 0:
        try:
            path = folder.claim(out, name, method, overwrite=overwrite)
        except CheckpointError as error:
            refused = error
    path, refused = distributed.of_rank_0((path, refused))
    if refused is not None:
        raise refused
    assert path is not None
    return path


def _announce(resolved: Resolved, data: Data) -> None:
    for note in data.notes:
        say(note)
    say(describe(resolved))


def _resume(data: Any, method: str | None, out: str | Path | None, settings: Mapping[str, Any]) -> Run:
    if out is None:
        raise ConfigError("--resume needs --out RUN, the folder of the run to go on with")
    path = Path(out)
    stored, images = folder.read_config(path)
    if method is not None and method != stored.method:
        raise ConfigError(f"cannot resume with method {method!r}: this run has {stored.method!r}; leave --method out, or start a new run")
    config = resumed(stored, settings)
    check_extras(config.run)
    checkpoint.require_resumable(path)
    device = start(config.run.device)
    if data is None and not images:
        raise DataError(f"run {out!r} was trained on an array that is not kept; give the images again")
    opened = open_data(images if data is None else data, config.data)
    folder.check_same_data(path, opened)
    t = training.build(replace(config, {"init": "random"}), opened, device, trained_on=folder.read_trained_on(path))
    t.config = config
    training.restore(t, path)
    if distributed.rank() == 0:
        cut_back(path / "metrics.jsonl", t.state.step, t.state.epoch if t.state.step_in_epoch == 0 else None)
    distributed.barrier()
    return _train(t, path, opened)


def _train(t: training.Training, path: Path, data: Data) -> Run:
    log = Log(path, t.config.run)
    precision = str(t.precision).removeprefix("torch.")
    try:
        log.say(f"{'resuming' if t.state.step else 'training'} {path} on {t.device} in {precision}")
        if isinstance(t.loader.images, CachedImages):
            log.say(t.loader.images.says())
        loop.fit(t, log, path)
        t.loader.broken = distributed.joined(t.loader.broken)
        if distributed.rank() == 0:
            weights.write_model(path, t.model, t.config)
            log.say(f"trained {t.total_steps:,} steps in {duration(t.state.seconds)}: {path}")
    finally:
        t.loader.close()
        if distributed.rank() == 0 and t.loader.broken:
            with contextlib.suppress(OSError):  # on a full disk another error is on its way already
                folder.write_skipped(path, t.loader.broken, data)
            log.say(f"{len(t.loader.broken):,} images could not be read; see {path / 'skipped.csv'}")
        log.close()
    return Run(path, t.config, data.where, t.model)


def describe(resolved: Resolved) -> str:
    """The settings that somebody chose: value, and where it came from; a line each, or one for many of one origin."""
    values = flatten(resolved.config)
    chosen = [(name, origin) for name, origin in resolved.origins.items() if origin != "default"]
    rows = []
    for origin, group in groupby(chosen, key=lambda item: item[1]):
        names = [name for name, _ in group]
        if len(names) > 3 and origin.startswith("recipe"):
            rows.append(("  " + names[0] + " ...", "", f"{origin} ({', '.join(f'{name} {short(values[name])}' for name in names)})"))
        else:
            rows += [("  " + name, short(values[name]), origin) for name in names]
    return f"{resolved.config.method}:\n" + table(rows)


def _fitted_to_time(resolved: Resolved, t: training.Training, opened: Data, settle: Settle) -> Resolved:
    """With max_minutes, max_steps is what this machine does in that time; `t` is used up to find out."""
    minutes = resolved.config.optim.max_minutes
    cost = _cost(t, opened, at_least=min(10, 2 * minutes), at_most=6 * minutes)
    steps = cost.steps_in(0.95 * 60 * minutes)
    if steps >= t.total_steps:
        say(
            f"max_minutes {minutes:g}: the full schedule of {t.total_steps:,} steps takes about {duration(cost.of(t.total_steps))}, so it stays"
        )
        return resolved
    clustering = f" and {cost.assign:.1f} s between epochs" if cost.assign > 0.1 else ""
    pace = f"{cost.step:.2f} s a step{clustering}"
    say(f"max_minutes {minutes:g}: {pace}, so the schedule is fitted to {steps:,} of {t.total_steps:,} steps")
    fitted = settle({"max_steps": steps})
    return Resolved(fitted.config, {**fitted.origins, "max_steps": f"max_minutes {minutes:g} at {pace}"})


def _cost(t: training.Training, opened: Data, *, at_least: float = 0.0, at_most: float = 20.0) -> Cost:
    """The cost of a run: the clustering's from a sample of the images, since it grows with their number; `t` is used up."""
    n = len(t.method.trained_on)
    n_sampled = min(n, max(_N_SAMPLED, t.config.optim.batch, 4 * max(t.config.n_prototypes)))
    if t.config.method == "swav" or n_sampled == n:
        return measure(t, at_least=at_least, at_most=at_most)
    sample = t.method.trained_on[np.linspace(0, n - 1, n_sampled).astype(np.int64)]
    t.loader.close()
    cost = measure(training.build(t.config, opened, t.device, trained_on=sample), at_least=at_least, at_most=at_most)
    grown = n / n_sampled
    return Cost(cost.step, grown * cost.first_assign, grown * cost.assign, t.method.steps_per_epoch)


_N_SAMPLED = 8192
"""Images that are clustered to find out how long clustering takes."""


def _estimate(t: training.Training, opened: Data) -> str:
    """Time and memory of the run, from a few steps on this machine; `t` is used up."""
    cost, batch, minutes = _cost(t, opened), t.config.optim.batch, t.config.optim.max_minutes
    n_steps = min(t.total_steps, cost.steps_in(60 * minutes)) if minutes else t.total_steps
    parameters = sum(p.numel() for p in t.model.parameters())
    clustering = f", {cost.assign:.1f} s of clustering between epochs" if cost.assign > 0.1 else ""
    return (
        f"estimate: {parameters / 1e6:.1f} million parameters; {cost.step:.2f} s a step, {batch / cost.step:,.0f} images/s{clustering}; "
        f"{n_steps:,} steps in about {duration(cost.of(n_steps))}; {peak_memory(t.device) / 2**30:.1f} GiB of memory"
    )
