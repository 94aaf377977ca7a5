"""The state of a run during training: built from a config, saved and restored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfcluster import distributed, optim
from selfcluster.data.crops import MultiCrop
from selfcluster.data.dataset import Data
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.readers.cache import CachedImages, decoded_bytes
from selfcluster.data.readers.images import Images
from selfcluster.device import n_threads, n_workers, precision_of
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.methods import METHODS, Method, build_model
from selfcluster.models.batch_norm import running_statistics_kept, synchronize_batch_norm
from selfcluster.models.encoders import compile_encoder, recompute_activations
from selfcluster.models.model import ClusterModel
from selfcluster.models.patches import PatchEncoder
from selfcluster.runs.checkpoint import CheckpointState, check_settings, load_checkpoint, save_checkpoint
from selfcluster.runs.weights import load_initial_weights
from selfcluster.settings.config import Config, flatten
from selfcluster.training.collapse import Watch, require_finite
from selfcluster.training.frozen import FrozenLoader
from selfcluster.training.time_limit import Stretch


@dataclass
class State:
    """Progress of the training; part of every checkpoint."""

    stretch: Stretch
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    """Time spent training, over all sessions."""
    plan: EpochPlan | None = None


@dataclass
class Training:
    """All parts of a run during training."""

    config: Config[Any]
    device: torch.device
    precision: torch.dtype
    """Precision of encoder and head."""
    model: ClusterModel
    parallel: nn.Module
    method: Method[Any]
    optimizers: dict[str, torch.optim.Optimizer]
    loader: Loader
    watch: Watch
    state: State
    patches: PatchEncoder | None = None
    """Encoder of patches for the first labels, once it is fitted."""

    @property
    def total_steps(self) -> int:
        """Steps of the run, as far as is known."""
        return self.state.stretch.total_steps

    def parameters_named(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Return the parameters with these bare names."""
        by_name = dict(self.model.named_parameters())
        return [by_name[name] for name in names]

    @property
    def parameter_names(self) -> dict[nn.Parameter, str]:
        """The bare name of each parameter, the same with and without data parallelism."""
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the loss."""
        # Batch norm has already counted the activations that are recomputed.
        with running_statistics_kept(self.model) if self.config.run.recompute else nullcontext():
            loss.backward()

    def autocast(self) -> AbstractContextManager:
        """Run encoder and head in their precision inside."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)


def build(config: Config[Any], data: Data, device: torch.device, *, trained_on: NDArray[np.int64] | None = None) -> Training:
    """Build all parts of a run, at step 0.

    Args:
        config, data, device: of the run.
        trained_on: indices of the images to train on; None for those that the settings choose.
    Raises:
        ConfigError: the batch is not divisible by the ranks or parts, or the network does not support a setting.
        DataError: there are fewer images than the batch.
    """
    batch, ranks = config.optim.batch, distributed.n_ranks()
    if trained_on is None:
        trained_on = data.trained_on(config.data, config.run.seed)
    if len(trained_on) < batch:
        raise DataError(f"{len(trained_on):,} images are fewer than the batch of {batch}; set --batch {len(trained_on)} or less")
    if batch % ranks:
        raise ConfigError(f"batch {batch} is not divisible by the {ranks} ranks; set --batch {math.ceil(batch / ranks) * ranks}")
    if (batch // ranks) % config.optim.accumulate:
        raise ConfigError(
            f"accumulate {config.optim.accumulate} does not divide the {batch // ranks} images of a step into equal parts; change --accumulate or --batch"
        )
    model = build_model(config)
    load_initial_weights(model.encoder, config.model.init)
    model.freeze(config.model.freeze, config.model.encoder)
    if not any(p.requires_grad for part in (model.encoder, model.head) for p in part.parameters()):
        raise ConfigError(
            f"freeze {config.model.freeze} leaves nothing to train, since there is no head; set --freeze to fewer stages, or use selfcluster explore"
        )
    if config.run.recompute:
        recompute_activations(model.encoder, config.model.encoder)
    if config.run.compile:
        compile_encoder(model.encoder)
    if ranks > 1:
        synchronize_batch_norm(model)
    model.to(device)
    if device.type == "cpu":
        torch.set_num_threads(n_threads(config))
    steps_per_epoch = len(trained_on) // batch
    total_steps = config.optim.epochs * steps_per_epoch
    if config.optim.max_steps:
        total_steps = min(total_steps, config.optim.max_steps)
    method = METHODS[config.method](config, model, trained_on, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    crops = MultiCrop(config.crops.n_crops, config.crops.crop_pixels, config.crops.area, config.augment)
    reading: dict[str, Any] = dict(
        images=_cached(data.images, crops, config.run.cache_gib),
        crops=crops,
        batch=batch,
        seed=config.run.seed,
        device=device,
        workers=n_workers(config, device, in_memory=data.images.in_memory),
        threads=n_threads(config),
        max_broken_share=config.data.max_broken_share,
        repeat_after=config.crops.repeat_after,
    )
    precision = precision_of(config, device)
    loader = (
        FrozenLoader(model=model, precision=precision, trained_on=trained_on, memory_bytes=config.run.features_gib * 2**30, **reading)
        if model.has_frozen_stages
        else Loader(**reading)
    )
    parallel: nn.Module = model
    if ranks > 1:
        with warnings.catch_warnings():
            # torch 2.15 prefers forward_sync_buffers, which 2.6 does not have; the buffers are the same on all ranks either way.
            warnings.simplefilter("ignore", FutureWarning)
            parallel = DistributedDataParallel(model, broadcast_buffers=False)
    return Training(
        config=config,
        device=device,
        precision=precision,
        model=model,
        parallel=parallel,
        method=method,
        optimizers=optim.build_optimizers(method.parameter_groups()),
        loader=loader,
        watch=Watch(config.health.on_collapse, n_prototypes=config.n_prototypes, begins=method.settles_at),
        state=State(Stretch(total_steps)),
    )


def _cached(images: Images, crops: MultiCrop, cache_gib: float) -> Images:
    """Return the images with a cache of the decoded ones if all of them fit in it; otherwise the images themselves."""
    if images.in_memory or not cache_gib:
        return images
    n_bytes = decoded_bytes(images, crops.min_scale_of_any)
    if not 0 < n_bytes <= cache_gib * 2**30:
        return images
    try:
        return CachedImages(images, crops.min_scale_of_any, n_bytes)
    except OSError:
        # Without room on the disk, decode as if they were cached: the crops must not depend on it.
        return CachedImages(images, crops.min_scale_of_any, 0)


def save(t: Training, folder: Path) -> None:
    """Write a checkpoint of this step; collective, rank 0 writes.

    Raises:
        DivergenceError: a loss since the last reading, or a weight, is not finite; nothing is overwritten.
    """
    t.watch.require_finite_losses()
    for name, weight in t.model.named_parameters():
        require_finite(weight, f"weights {name}", t.state.step, together=True)
    tensors = {
        "model": t.model.state_dict(),
        "method": t.method.state_dict(),
        "optimizer": optim.state_by_name(t.optimizers, t.parameter_names),
        "plan": {"order": torch.from_numpy(t.state.plan.order)} if t.state.plan is not None else {},
        "watch": t.watch.state_dict(),
    }
    s, broken = t.state, distributed.joined(t.loader.broken)
    if distributed.rank() == 0:
        save_checkpoint(
            folder,
            tensors,
            CheckpointState(s.step, s.epoch, s.step_in_epoch, s.seconds, broken, flatten(t.config), asdict(s.stretch)),
            keep=t.config.run.keep_checkpoints,
        )
    distributed.barrier()


def restore(t: Training, folder: Path, step: int | None = None) -> None:
    """Load a checkpoint; the last one if no step is named.

    Raises:
        CheckpointError: there is none, it is damaged or incomplete, or it belongs to another configuration.
    """
    tensors, state = load_checkpoint(folder, step)
    check_settings(state, t.config)
    t.model.load_state_dict(tensors["model"])
    t.method.load_state_dict(tensors["method"])
    optim.load_state_by_name(t.optimizers, t.parameter_names, tensors["optimizer"])
    t.loader.broken = state.broken
    if "watch" in tensors:  # older checkpoints have none
        t.watch.load_state_dict(tensors["watch"], t.device)
    plan = EpochPlan(tensors["plan"]["order"].numpy()) if tensors["plan"] else None
    is_of_this_length = state.settings.get("extended_at", 0) == t.config.optim.extended_at
    stretch = Stretch(**state.stretch) if state.stretch and is_of_this_length else t.state.stretch
    t.state = State(stretch, state.epoch, state.step, state.step_in_epoch, state.seconds, plan)
    if state.step_in_epoch >= t.method.steps_per_epoch:
        t.state.epoch, t.state.step_in_epoch = state.epoch + 1, 0
    elif plan is None and state.step_in_epoch > 0:
        raise CheckpointError(
            f"the checkpoint of step {state.step:,} in {str(folder)!r} lacks the image order of its epoch; resume an earlier copy, or start a new run"
        )
