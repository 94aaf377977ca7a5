"""Collapse detection: the health metrics of each step, judged at every log line by the rules in `health`."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed
from selfcluster.clustering import metrics
from selfcluster.errors import DivergenceError
from selfcluster.methods.base import Codes, OnCollapse, Targets, stop_or_warn
from selfcluster.models.model import Outputs
from selfcluster.training.health import WINDOW_STEPS, Health, Problem, falls, ln_k, problem_of

_DIVERGED = "the last checkpoint is kept; lower lr, add warmup_epochs, set clip_norm, or try precision float32"


class _StepMetrics(NamedTuple):
    """Health metrics of one step, as means over the ranks."""

    loss: float
    entropy: float
    """Mean entropy of the codes, in nats; NaN for pseudo-labels."""
    length: float
    """Squared length of the mean embedding."""


class Watch:
    """Health metrics of the latest steps; the device is read only at log lines.

    Args:
        on_collapse: "stop" raises CollapseError, "warn" stores the message in `warned`.
        n_prototypes: K of each head.
        begins: first step to judge, after warm-up and freeze.
        n_steps: steps to average over.
    """

    def __init__(self, on_collapse: OnCollapse, *, n_prototypes: tuple[int, ...], begins: int, n_steps: int = WINDOW_STEPS) -> None:
        self.on_collapse, self.begins, self.n_steps = on_collapse, begins, n_steps
        self.k, self.ln_k = n_prototypes[0], ln_k(n_prototypes)
        self._unread: list[Tensor] = []
        self._first_unread = 0
        self._window: deque[_StepMetrics] = deque(maxlen=n_steps)
        self._assigned: deque[Tensor] = deque()
        self._features: deque[Tensor] = deque()
        self.warned: str | None = None

    @torch.no_grad()
    def see(self, out: Outputs, targets: Targets, loss: Tensor, step: int) -> None:
        """Record one step."""
        n_assign = len(out.features)
        mean_embedding = normalize(out.embeddings[:n_assign].flatten(0, 1)).mean(dim=0)
        entropy = torch.special.entr(targets.codes).sum(dim=-1).mean() if isinstance(targets, Codes) else loss.new_tensor(torch.nan)
        if not self._unread:
            self._first_unread = step
        self._unread.append(torch.stack([loss.detach().float(), entropy, mean_embedding.square().sum()]))
        _keep_newest(self._assigned, out.scores[0][:n_assign].argmax(dim=-1).flatten(), 10 * self.k)
        _keep_newest(self._features, out.features[0], 2048)

    def read(self) -> dict[str, float]:
        """Return the means since the last reading by metric name, and judge the latest steps.

        Raises:
            DivergenceError: a loss was not finite.
            CollapseError: training has collapsed or is not learning, and `on_collapse` is stop.
        """
        if not self._unread:
            return {}
        steps = self._read_steps()
        self._unread = []
        self._window.extend(steps[max(0, self.begins - self._first_unread) :])
        if len(self._window) == self.n_steps:
            self._judge()
        loss, entropy, length = map(fmean, zip(*steps, strict=True))
        return {
            "train/loss": loss,
            **({} if math.isnan(entropy) else {"collapse/code_entropy": entropy / self.ln_k}),
            "collapse/mean_embedding": length,
            "collapse/prototypes_used": metrics.prototypes_used(torch.cat(list(self._assigned)), self.k),
        }

    def require_finite_losses(self) -> None:
        """Raise DivergenceError if a loss since the last reading is not finite."""
        self._read_steps()

    def _read_steps(self) -> list[_StepMetrics]:
        if not self._unread:
            return []
        rows = distributed.all_reduce_sum(torch.stack(self._unread)) / distributed.n_ranks()
        steps = [_StepMetrics(*row) for row in rows.tolist()]
        for step, of_step in enumerate(steps, self._first_unread):
            if not math.isfinite(of_step.loss):
                raise DivergenceError(f"the loss is {of_step.loss} at step {step}; {_DIVERGED}")
        return steps

    def rankme(self) -> float:
        """Return the effective rank of the newest features of this rank; the losses must be finite."""
        self.require_finite_losses()
        return metrics.rankme(torch.cat(list(self._features)))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the latest steps, so that a run that is stopped again and again is judged as one; collective."""
        unread = distributed.all_reduce_sum(torch.stack(self._unread)) / distributed.n_ranks() if self._unread else torch.empty(0, 3)
        state = {"window": torch.tensor(list(self._window), dtype=torch.float64).reshape(-1, 3), "unread": unread}
        state["first_unread"] = torch.tensor(self._first_unread)
        for name, kept in (("assigned", self._assigned), ("features", self._features)):
            if kept:
                state |= {name: torch.cat(list(kept)), f"{name}_sizes": torch.tensor([len(rows) for rows in kept])}
        return state

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take up the steps that `state_dict` returned."""
        self._window.extend(_StepMetrics(*row) for row in state["window"].tolist())
        self._unread, self._first_unread = list(state["unread"].to(device)), int(state["first_unread"])
        for name, kept in (("assigned", self._assigned), ("features", self._features)):
            if name in state:
                kept.extend(state[name].to(device).split(state[f"{name}_sizes"].tolist()))

    def _judge(self) -> None:
        loss, entropy, length = map(fmean, zip(*self._window, strict=True))
        health = Health(
            loss=loss,
            loss_falls=falls([step.loss for step in self._window]),
            ln_k=self.ln_k,
            code_entropy=None if math.isnan(entropy) else entropy / self.ln_k,
            mean_embedding=length,
        )
        if problem := problem_of(health):
            self.warned = stop_or_warn(_message(problem, health, self.n_steps), self.on_collapse)
            self._window.clear()


def _message(problem: Problem, h: Health, n_steps: int) -> str:
    """Return what happened, and which settings to change."""
    over = f"over the last {n_steps} steps"
    entropy = f"{h.code_entropy:.3f} ln K" if h.code_entropy is not None else "unknown"
    match problem:
        case "same embedding":
            return (
                f"collapsed: {over} the mean code entropy is {entropy} and |mean embedding|^2 is {h.mean_embedding:.3f}, so every image gets the "
                "same embedding; lower epsilon or lr, raise freeze_steps, soften the crops (area, augmentation), or use fewer prototypes or a larger batch"
            )
        case "stuck loss":
            return (
                f"not learning: {over} the loss {h.loss:.3f} {'stays at' if h.loss < 1.1 * h.ln_k else 'is above'} ln K = {h.ln_k:.3f} and does not fall (|mean embedding|^2 is {h.mean_embedding:.3f}); "
                "raise a small lr or lower a large one, use more and smaller batches, soften the crops (area, augmentation), or use fewer prototypes"
            )
        case "uniform codes":
            return (
                f"not learning: {over} the loss {h.loss:.3f} stays at ln K = {h.ln_k:.3f} and the codes are uniform (entropy {entropy}); "
                "lower epsilon, use more and smaller batches, LARS or AdamW, or fewer prototypes"
            )
        case "sharp codes":
            return (
                f"not learning: {over} the codes are sharp (entropy {entropy}) but the loss {h.loss:.3f} stays above ln K = {h.ln_k:.3f}, so crops of "
                "one image do not agree; raise epsilon or freeze_steps, soften the crops (area, augmentation), lower lr, or enlarge the batch"
            )


def _keep_newest(kept: deque[Tensor], rows: Tensor, n: int) -> None:
    """Append the rows and drop the oldest, as long as n remain."""
    kept.append(rows)
    while sum(map(len, kept)) - len(kept[0]) >= n:
        kept.popleft()


def require_finite(x: Tensor, what: str, step: int, *, together: bool = False) -> None:
    """Check that all values are finite; waits for the device.

    Args:
        x, what: the values, and what they are.
        step: of training.
        together: whether the ranks check at the same place, so that all of them raise the error of one; collective.
    Raises:
        DivergenceError: some value is not finite.
    """
    is_bad = not torch.isfinite(x).all()
    if distributed.any_rank(is_bad) if together else is_bad:
        raise DivergenceError(f"{what} are not finite at step {step}; {_DIVERGED}")
