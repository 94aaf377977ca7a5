"""Optimizers and schedules, built from the groups of parameters that a method names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from timm.optim import Lars
from torch import Tensor, nn

Schedule = Callable[[int], float]
"""From step, counted over the whole run, to learning rate."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained alike."""

    name: str
    parameters: list[nn.Parameter]
    kind: Literal["lars", "sgd", "adamw"]
    schedule: Schedule
    momentum: float
    weight_decay: float


def cosine(*, lr: float, final_lr: float, total_steps: int, warmup_steps: int = 0, warmup_lr: float = 0.0) -> Schedule:
    """Linear warm-up from warmup_lr to lr, then half a cosine to final_lr, step by step.

    Source: SwAV, arXiv 2006.09882, appendix A.
    """

    def at(step: int) -> float:
        if step < warmup_steps:
            return warmup_lr + (lr - warmup_lr) * step / max(1, warmup_steps - 1)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return final_lr + (lr - final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return at


def constant(lr: float) -> Schedule:
    """The same learning rate at every step."""
    return lambda step: lr


def build_optimizers(groups: Iterable[ParameterGroup]) -> dict[str, torch.optim.Optimizer]:
    """One optimizer for each kind among the groups, under the kind's name."""
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
    """Each in its fastest form: fused, or over all parameters at once."""
    if kind == "lars":
        # timm's has learned it lately.
        at_once = {"foreach": True} if "foreach" in inspect.signature(Lars).parameters else {}
        # Paper: every parameter is adapted, biases and batch norm included; timm skips those without weight decay unless told.
        return Lars([settings], lr=0.0, trust_coeff=0.001, eps=1e-8, always_adapt=True, **at_once)
    if kind == "sgd":
        return torch.optim.SGD([settings], lr=0.0)  # fused, it refuses prototypes that begin to learn later than the rest
    fused = all(p.device.type in ("cpu", "cuda") for p in settings["params"])
    return torch.optim.AdamW([settings], lr=0.0, betas=(0.9, 0.95), fused=fused)


def set_lr(optimizers: dict[str, torch.optim.Optimizer], step: int) -> float:
    """Every group has the learning rate of this step; the first one's is returned."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    for group in groups:
        group["lr"] = group["schedule"](step)
    return groups[0]["lr"]


def clip_gradients(optimizers: dict[str, torch.optim.Optimizer], norm: float) -> None:
    """The norm of all gradients together is at most this; 0 for no limit."""
    if norm:
        torch.nn.utils.clip_grad_norm_(_trained(optimizers), norm)


def update(optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """One step of every optimizer; the gradients are gone."""
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def forget(optimizers: dict[str, torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """The optimizers know nothing of these parameters' past: they begin anew."""
    for parameter in parameters:
        for optimizer in optimizers.values():
            optimizer.state.pop(parameter, None)


def _trained(optimizers: dict[str, torch.optim.Optimizer]) -> list[Tensor]:
    return [p for optimizer in optimizers.values() for group in optimizer.param_groups for p in group["params"]]


def state_by_name(optimizers: dict[str, torch.optim.Optimizer], names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """What every optimizer remembers of each parameter, under the parameter's name: `momentum_buffer/encoder.conv1.weight`."""
    return {
        f"{key}/{names[cast(nn.Parameter, parameter)]}": torch.as_tensor(value)
        for optimizer in optimizers.values()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def load_state_by_name(optimizers: dict[str, torch.optim.Optimizer], names: dict[nn.Parameter, str], state: dict[str, Tensor]) -> None:
    """The optimizers remember what `state_by_name` saved, and nothing else."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        what, name = key.split("/", 1)
        by_parameter.setdefault(name, {})[what] = value
    for optimizer in optimizers.values():
        optimizer.state.clear()
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            for what, value in by_parameter.get(names[parameter], {}).items():
                # AdamW keeps its step count on the CPU, unless it is fused; moments live beside the parameter, in its memory layout.
                beside = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
                optimizer.state[parameter][what] = (
                    value.to(beside, copy=True) if what == "step" else torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                )
