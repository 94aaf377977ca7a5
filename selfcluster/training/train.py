"""From data and settings to a trained run in its folder: resolve, claim the folder, train, write the model."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from selfcluster import distributed, ranks
from selfcluster.data.dataset import Data
from selfcluster.data.inspect import look_at
from selfcluster.data.readers.cache import CachedImages
from selfcluster.data.sources import open_data
from selfcluster.device import start
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError, CollapseError, ConfigError, DataError
from selfcluster.formatting import duration, short, table
from selfcluster.hub import downloaded
from selfcluster.ranks import stopping_together
from selfcluster.runs import checkpoint, folder, weights
from selfcluster.runs.initial_weights import network_of, preparation_for
from selfcluster.runs.lock import locked_run
from selfcluster.runs.log import Log
from selfcluster.runs.manifest import check_same_data, read_manifest
from selfcluster.runs.metrics import check_extras, cut_back
from selfcluster.runs.run import OpenRun
from selfcluster.settings.adapting import METHOD as METHOD_THAT_ADAPTS
from selfcluster.settings.config import LENGTHS, Config, default_config, flatten, replace
from selfcluster.settings.resolve import ResolvedConfig, profile_of, resolve, resumed_config
from selfcluster.settings.suspects import suspects
from selfcluster.settings.toml import SettingsFile, read_origins, read_toml
from selfcluster.settings.validation import check, check_values
from selfcluster.training import loop
from selfcluster.training.budget import Resolver, estimate, fit_to_time, largest_batch
from selfcluster.training.extend import extended, lengths_of, n_steps
from selfcluster.training.state import Training, build, restore

_MARGIN = 0.98
"""Share of the time for training; the rest is for the end of the run: weights, last checkpoint."""

T = TypeVar("T")


@stopping_together()
def train(
    data: Any = None,
    *,
    method: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    augmentation: str | None = None,
    resume: bool | Literal["auto"] = False,
    from_step: int | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> OpenRun:
    """Train an encoder; see `api.train`, which takes the same arguments."""
    if resume == "auto":
        if out is None:
            raise ConfigError("--resume auto needs --out RUN, the folder of the run to begin or to resume")
        resume = checkpoint.has_any(Path(out))
        if resume:
            settings, preset, config, augmentation = _as_begun(Path(out), config, settings), None, None, None
        else:
            overwrite = True  # what a run left that was stopped before its first checkpoint
    if resume:
        if preset is not None or config is not None or augmentation is not None or overwrite:
            raise ConfigError("--resume keeps the settings of the run; leave out --preset, --config, --augmentation and --overwrite")
        if out is None:
            raise ConfigError("--resume needs --out RUN, the folder of the run to resume")
        return _resume(data, method, Path(out), from_step, settings)
    if from_step is not None:
        raise ConfigError("--from names a checkpoint to resume from; add --resume, or leave it out")
    began = time.perf_counter()
    resolver, opened, device = _open(data, method, preset, config, augmentation, settings)
    resolved = resolver({})
    t = build(resolved.config, opened, device)
    path = _on_rank_0(lambda: folder.claim(out, opened.name, resolved.config.method, overwrite=overwrite), Path(out or "runs"))
    _announce(resolved, opened)
    if resolved.config.optim.max_minutes:
        resolved, patches = fit_to_time(resolved, t, opened, resolver), t.patches
        t = build(resolved.config, opened, device)
        t.patches = patches
        _limit(t, 60 * resolved.config.optim.max_minutes - (time.perf_counter() - began))
    with _locked(path):
        # Another run may have begun there, and ended, while the time was fitted.
        _on_rank_0(lambda: folder.check_free(path, overwrite=overwrite), path)
        _on_rank_0(lambda: folder.prepare(path, resolved, opened), path)
        return _train(t, path, opened)


def _limit(t: Training, seconds: float) -> None:
    """Set the training time to keep to, the same on all ranks."""
    t.state.stretch = dataclasses.replace(t.state.stretch, seconds=max(1.0, -distributed.largest(-_MARGIN * seconds)))


def _as_begun(path: Path, file: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a command that began a run, without those that were replaced by what they lead to."""
    stored, from_file = folder.read_config(path)[0], read_toml(Path(file)).settings if file is not None else {}
    settings = _absolute(_from_hub({**from_file, **settings}))
    fitted = ("batch",) if settings.get("batch") == "auto" else ()
    if settings.get("max_minutes") == stored.optim.max_minutes:
        fitted = (*fitted, *LENGTHS)
    return {name: value for name, value in settings.items() if name not in fitted}


def dry_run(
    data: Any,
    *,
    method: str | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    augmentation: str | None = None,
    **settings: Any,
) -> None:
    """Log the settings that `train` would use and why, with an estimate of time and memory; train and write nothing."""
    resolver, opened, device = _open(data, method, preset, config, augmentation, settings)
    resolved = resolver({})
    t = build(resolved.config, opened, device)
    _announce(resolved, opened)
    logger.info(estimate(t, opened))


def _open(
    data: Any, method: str | None, preset: str | None, file: str | Path | None, augmentation: str | None, flags: Mapping[str, Any]
) -> tuple[Resolver, Data, torch.device]:
    """Open the images and the device of a new run; return them with the function that resolves its config."""
    read, flags = read_toml(Path(file)) if file is not None else SettingsFile({}), _from_hub(flags)
    read = dataclasses.replace(read, settings=_from_hub(read.settings))
    profile = profile_of(method, preset, augmentation, read, str(flags.get("init", "random")))
    from_file, flags = _absolute(read.settings), _absolute(flags)
    from_file.pop("extended_at", None)  # of the run that the file was written for
    if flags.get("extended_at"):
        raise ConfigError(
            "extended_at is recorded when a finished run is made longer: --resume with --epochs, --max-steps or --max-minutes"
        )
    if is_auto := flags.get("batch", from_file.get("batch")) == "auto":
        flags, from_file = ({name: value for name, value in given.items() if name != "batch"} for given in (flags, from_file))
    if method is None and read.method is None and profile.preset is None and profile.method == METHOD_THAT_ADAPTS:
        logger.info(f"method {profile.method}, which adapts weights that were trained on other images; --method chooses another one")
    chosen = replace(default_config(profile.method), {**from_file, **flags})
    check_values(chosen)
    check_extras(chosen.run)
    device = start(chosen.run.device)
    ranks.watch(chosen.run.rank_timeout)
    for warning in read.warnings:
        logger.warning(warning)
    opened = open_data((read.images or "") if data is None else data, chosen.data)
    if len(opened.images) == 1:
        raise DataError("one image cannot be trained on; give more images")
    facts = look_at(opened.images, len(opened.trained_on(chosen.data, chosen.run.seed)), device)
    # The weights of a run, or of a folder of timm's, fit their own encoder only.
    followed = network_of(chosen.model.init) if profile.preset is None else {}
    followed = {name: value for name, value in followed.items() if value and name not in flags and name not in from_file}

    def resolver(found: Mapping[str, Any]) -> ResolvedConfig:
        resolved = resolve(profile, facts, file=from_file, flags={**followed, **flags, **found})
        origins = {**resolved.origins, **dict.fromkeys(followed, "that of the weights in init")}
        preparation = preparation_for(resolved.config.model.encoder, resolved.config.model.init)
        of_weights = preparation.settings() if preparation is not None else {}
        of_weights = {name: value for name, value in of_weights.items() if name not in flags and name not in from_file}
        return ResolvedConfig(replace(resolved.config, of_weights), origins | dict.fromkeys(of_weights, "that of the initial weights"))

    fitting = _with_largest_batch(resolver, opened, device) if is_auto else resolver
    return fitting, opened, device


def _with_largest_batch(resolver: Resolver, data: Data, device: torch.device) -> Resolver:
    """Return a resolver for the largest batch that fits; other settings, such as lr, follow from it by the recipe."""
    logger.info("batch auto: trying larger and larger batches")
    capacity = largest_batch(lambda batch: resolver({"batch": batch} if batch else {}).config, data, device)
    origin = f"auto: {capacity.peak_bytes / 2**30:.1f} GiB, and {capacity.why}"

    def with_batch(found: Mapping[str, Any]) -> ResolvedConfig:
        resolved = resolver({"batch": capacity.batch, **found})
        return ResolvedConfig(resolved.config, {**resolved.origins, "batch": origin})

    return with_batch


def _from_hub(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings with weights of the hub downloaded; as the encoder they are initial weights, which name their encoder."""
    encoder, init = str(flags.get("encoder", "")), str(flags.get("init", "pretrained"))
    if (folder := downloaded(encoder)) != encoder:
        if init not in ("pretrained", encoder):
            raise ConfigError(f"--encoder {encoder!r} names its weights already; leave out --init {init}, or set --init pretrained")
        return {**{name: value for name, value in flags.items() if name != "encoder"}, "init": folder}
    return {**flags, "init": downloaded(init)} if "init" in flags else flags


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with absolute paths of files, so that the run can be resumed from another folder."""
    words = {"init": ("random", "pretrained"), "labels": ("auto", "none")}  # also where a file or folder is called so
    given = {name: settings[name] for name in words if settings.get(name) not in (None, *words[name])}
    files = {name: str(Path(path).resolve()) for name, path in given.items() if Path(path).exists()}
    return {**settings, **files}


def _on_rank_0(work: Callable[[], T], path: Path) -> T:
    """Work on the run folder on rank 0, and return the result on every rank.

    Raises:
        CheckpointError: rank 0 raised it, or could not write; on every rank, so that none waits for rank 0.
    """
    found: T | CheckpointError = CheckpointError()
    if distributed.rank() == 0:
        try:
            found = work()
        except CheckpointError as error:
            found = error
        except OSError as error:
            reason = error.strerror or error
            found = CheckpointError(f"cannot write {str(error.filename or path)!r}: {reason}; choose another --out, or free some space")
    found = distributed.of_rank_0(found)
    if isinstance(found, CheckpointError):
        raise found
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the run folder on rank 0; CheckpointError on every rank if another process holds it."""
    with contextlib.ExitStack() as stack:
        _on_rank_0(lambda: stack.enter_context(locked_run(path)), path)
        yield


def _announce(resolved: ResolvedConfig, data: Data) -> None:
    for note in data.notes:
        logger.info(note)
    logger.info(describe(resolved))


def _resume(data: Any, method: str | None, path: Path, from_step: int | None, settings: Mapping[str, Any]) -> OpenRun:
    stored, images = folder.read_config(path)
    if method is not None and method != stored.method:
        raise ConfigError(f"cannot resume with method {method!r}: this run has {stored.method!r}; leave out --method, or start a new run")
    longer = lengths_of(stored, settings)
    config = resumed_config(stored, {name: value for name, value in settings.items() if name not in longer})
    check_extras(config.run)
    device = start(config.run.device)
    ranks.watch(config.run.rank_timeout)
    with _locked(path):
        checkpoint.check_resumable(path, from_step)
        for warning in read_toml(path / "config.toml").warnings:
            logger.warning(warning)
        opened, trained_on = _opened_again(data, images, config, path), read_manifest(path).trained_on
        steps_per_epoch, state = len(trained_on) // config.optim.batch, checkpoint.read_state(path, from_step)
        if settings.get("max_minutes") and state.step >= n_steps(config, steps_per_epoch, state):
            longer["max_minutes"] = settings["max_minutes"]  # from now on, also as many as before
        if longer:
            config = extended(config, state, longer, steps_per_epoch=steps_per_epoch)
            check(config)
        t = build(replace(config, {"init": "random"}), opened, device, trained_on=trained_on)
        t.config = config
        restore(t, path, from_step)
        if longer.get("max_minutes"):
            _limit(t, state.seconds + 60 * longer["max_minutes"])
        if longer:
            _write_longer(t, path, images)
        if t.state.step >= t.total_steps and weights.is_written(path):
            how = "add --epochs, --max-steps or --max-minutes to make it longer"
            logger.info(f"{path} has finished: {t.state.step:,} steps in {duration(t.state.seconds)}; {how}")
            return OpenRun(path, config, opened.where, t.model)
        if distributed.rank() == 0:
            if from_step is not None:
                checkpoint.make_last(path, from_step)
            cut_back(path / "metrics.jsonl", t.state.step, t.state.epoch if t.state.step_in_epoch == 0 else None)
        distributed.barrier()
        return _train(t, path, opened)


def _opened_again(data: Any, images: str, config: Config[Any], path: Path) -> Data:
    """Return the images of a run that is resumed, which must be the same."""
    if data is None and not images:
        raise DataError(f"run {str(path)!r} was trained on an array, which is not saved; pass the images again")
    opened = open_data(images if data is None else data, config.data)
    check_same_data(path, opened)
    return opened


def _write_longer(t: Training, path: Path, images: str) -> None:
    """Write the config of a finished run that is made longer."""
    origins = {**read_origins(path / "config.toml", t.config), **dict.fromkeys((*LENGTHS, "extended_at"), "when it was made longer")}
    _on_rank_0(lambda: folder.write_config(path, ResolvedConfig(t.config, origins), images), path)
    logger.info(
        f"the run has finished; training it from step {t.state.step:,} to {t.total_steps:,}, on a new schedule of the learning rate"
    )


def _train(t: Training, path: Path, data: Data) -> OpenRun:
    log = Log(path, t.config.run)
    precision = str(t.precision).removeprefix("torch.")
    try:
        log.say(f"{'resuming' if t.state.step else 'training'} {path} on {t.device} in {precision}")
        likely = suspects(t.config, len(t.method.trained_on))
        for setting in likely:
            log.say(f"far from what works elsewhere: {setting}")
        if isinstance(t.loader.images, CachedImages):
            log.say(t.loader.images.note())
        if t.model.has_frozen_stages and not t.model.runs_frozen_apart:
            log.say(f"the frozen stages of {t.config.model.encoder} cannot be run apart from the rest, so they run at every step")
        try:
            loop.fit(t, log, path)
        except CollapseError as error:
            if likely:
                raise type(error)(f"{error}; most likely since {', and '.join(likely)}") from None
            raise
        t.loader.broken = distributed.joined(t.loader.broken)
        if distributed.rank() == 0:
            weights.write_model(path, t.model, t.config)
            log.say(f"trained {t.total_steps:,} steps in {duration(t.state.seconds)}: {path}")
    finally:
        t.loader.close()
        if distributed.rank() == 0 and t.loader.broken:
            with contextlib.suppress(OSError):  # on a full disk, another error has been raised already
                folder.write_skipped(path, t.loader.broken, data)
            log.say(f"{len(t.loader.broken):,} images could not be read; see {path / 'skipped.csv'}", logging.WARNING)
        log.close()
    return OpenRun(path, t.config, data.where, t.model)


def describe(resolved: ResolvedConfig) -> str:
    """Return the settings that are not defaults, with value and origin; one line each, or one for many of the same origin."""
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
