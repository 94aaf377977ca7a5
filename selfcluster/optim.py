"""Optimizers and schedules, built from a method's parameter groups."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from timm.optim import Lars
from torch import Tensor, nn

Schedule = Callable[[float], float]
"""Learning rate as a function of the step, counted over the whole run; between two steps where the schedule was stretched."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same optimizer, schedule and hyperparameters."""

    name: str
    parameters: list[nn.Parameter]
    kind: Literal["lars", "sgd", "adamw"]
    schedule: Schedule
    momentum: float
    weight_decay: float


def cosine(*, lr: float, final_lr: float, total_steps: int, warmup_steps: int = 0, warmup_lr: float = 0.0, first_step: int = 0) -> Schedule:
    """Return a schedule of linear warm-up from warmup_lr to lr, then cosine decay to final_lr, which begins at first_step.

    Source: SwAV, arXiv 2006.09882, appendix A.
    """

    total_steps -= first_step

    def at(step: float) -> float:
        step -= first_step
        if step < warmup_steps:
            return warmup_lr + (lr - warmup_lr) * step / max(1, warmup_steps - 1)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return final_lr + (lr - final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return at


def constant(lr: float) -> Schedule:
    """Return a schedule with a constant learning rate."""
    return lambda step: lr


def build_optimizers(groups: Iterable[ParameterGroup]) -> dict[str, torch.optim.Optimizer]:
    """Build one optimizer for each kind of group, keyed by kind."""
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for group in groups:
        settings: dict[str, Any] = dict(params=group.parameters, weight_decay=group.weight_decay, name=group.name, schedule=group.schedule)
        if group.kind != "adamw":
            settings["momentum"] = group.momentum
        if group.kind in optimizers:
            optimizers[group.kind].add_param_group(settings)
        else:
            optimizers[group.kind] = _build(group.kind, settings)
    return optimizers


def _build(kind: str, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """Build an optimizer in its fastest form: fused, or over all parameters at once (foreach)."""
    if kind == "lars":
        # Older versions of timm lack it.
        foreach = {"foreach": True} if "foreach" in inspect.signature(Lars).parameters else {}
        # Paper: every parameter is adapted, including biases and batch norm; by default timm skips those without weight decay.
        return Lars([settings], lr=0.0, trust_coeff=0.001, eps=1e-8, always_adapt=True, **foreach)
    if kind == "sgd":
        return torch.optim.SGD([settings], lr=0.0)  # the fused version fails for prototypes that are frozen at first
    fused = all(p.device.type in ("cpu", "cuda") for p in settings["params"])
    return torch.optim.AdamW([settings], lr=0.0, betas=(0.9, 0.95), fused=fused)


def set_lr(optimizers: dict[str, torch.optim.Optimizer], step: float) -> float:
    """Set every group's learning rate for this step, and return that of the first."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    for group in groups:
        group["lr"] = group["schedule"](step)
    return groups[0]["lr"]


def clip_gradients(optimizers: dict[str, torch.optim.Optimizer], norm: float) -> None:
    """Clip the norm of all gradients together; 0 for no limit."""
    if norm:
        parameters = [p for optimizer in optimizers.values() for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, norm)


def update(optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Step every optimizer and clear the gradients."""
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def forget(optimizers: dict[str, torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Discard the optimizers' state of these parameters."""
    for parameter in parameters:
        for optimizer in optimizers.values():
            optimizer.state.pop(parameter, None)


def state_by_name(optimizers: dict[str, torch.optim.Optimizer], names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Return the state of every optimizer, keyed by parameter name: `momentum_buffer/encoder.conv1.weight`."""
    return {
        f"{key}/{names[cast(nn.Parameter, parameter)]}": torch.as_tensor(value)
        for optimizer in optimizers.values()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def load_state_by_name(optimizers: dict[str, torch.optim.Optimizer], names: dict[nn.Parameter, str], state: dict[str, Tensor]) -> None:
    """Replace the state of every optimizer by what `state_by_name` saved."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        entry, name = key.split("/", 1)
        by_parameter.setdefault(name, {})[entry] = value
    for optimizer in optimizers.values():
        optimizer.state.clear()
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            for entry, value in by_parameter.get(names[parameter], {}).items():
                # AdamW's step count is on the CPU, unless it is fused; moments are on the parameter's device, in its memory layout.
                step_device = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
                optimizer.state[parameter][entry] = (
                    value.to(step_device, copy=True) if entry == "step" else torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                )
