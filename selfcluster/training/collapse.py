"""Signs of life and death, watched while training goes on.

The loss alone tells little: a healthy start and a constant embedding both stand a little above ln K. A collapse shows in codes
that are uniform while all embeddings agree; the other disease is sharp codes with a loss that does not fall below ln K.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed
from selfcluster.clustering import metrics
from selfcluster.errors import CollapseError, DivergenceError
from selfcluster.methods.base import Codes, Targets
from selfcluster.models.model import Outputs
from selfcluster.settings.config import HealthSettings

_SHARP = 0.5
"""Codes count as sharp below this share of ln K."""

_STUCK = 0.01
"""A loss stands at ln K within this share of it."""

_FALLING = 0.01
"""A loss falls when the later half of the steps is lower by this."""

_CURES = "the last checkpoint is kept. Lower lr, add warmup_epochs, set clip_norm, or try precision float32"


class Watch:
    """Sees every step and judges at every log line; reads the device only then.

    Args:
        settings: the limits.
        n_prototypes: K of each head.
        begins: step from which a collapse counts: after warm-up and freeze.
    """

    def __init__(self, settings: HealthSettings, *, n_prototypes: tuple[int, ...], begins: int) -> None:
        self.settings, self.k, self.begins = settings, n_prototypes[0], begins
        self.ln_k = sum(map(math.log, n_prototypes)) / len(n_prototypes)
        self._unread: list[Tensor] = []
        self._first_unread = 0
        self._window: deque[tuple[float, float, float]] = deque(maxlen=settings.collapse_steps)
        self._assigned: deque[Tensor] = deque()
        self._features: deque[Tensor] = deque()
        self.warned: str | None = None

    @torch.no_grad()
    def see(self, out: Outputs, targets: Targets, loss: Tensor, step: int) -> None:
        """Note the signs of one step."""
        n_assign = len(out.features)
        mean_embedding = normalize(out.embeddings[:n_assign].flatten(0, 1)).mean(dim=0)
        # Pseudo-labels are hard: their entropy says nothing.
        entropy = torch.special.entr(targets.codes).sum(dim=-1).mean() if isinstance(targets, Codes) else loss.new_tensor(torch.nan)
        if not self._unread:
            self._first_unread = step
        self._unread.append(torch.stack([loss.detach().float(), entropy, mean_embedding.square().sum()]))
        self._keep(self._assigned, out.scores[0][:n_assign].argmax(dim=-1).flatten(), 10 * self.k)
        self._keep(self._features, out.features[0], 2048)

    @staticmethod
    def _keep(kept: deque[Tensor], rows: Tensor, n: int) -> None:
        """The newest n rows or a little more."""
        kept.append(rows)
        while sum(map(len, kept)) - len(kept[0]) >= n:
            kept.popleft()

    def read(self) -> dict[str, float]:
        """Means since the last reading, by metric name.

        Raises:
            DivergenceError: a loss was not finite.
            CollapseError: the signs of death have lasted, and the settings say stop.
        """
        if not self._unread:
            return {}
        signs = self._signs()
        self._unread = []
        self._window.extend(signs[max(0, self.begins - self._first_unread) :])
        loss, entropy, length = _means(signs)
        self._judge()
        of_codes = {} if math.isnan(entropy) else {"collapse/code_entropy": entropy / self.ln_k}
        return {
            "train/loss": loss,
            **of_codes,
            "collapse/mean_embedding": length,
            "collapse/prototypes_used": metrics.prototypes_used(torch.cat(list(self._assigned)), self.k),
        }

    def require_finite_losses(self) -> None:
        """Raises DivergenceError where a loss since the last reading was not finite."""
        self._signs()

    def _signs(self) -> list[tuple[float, float, float]]:
        """Loss, code entropy and squared length of the mean embedding of each unread step, as means over the ranks."""
        if not self._unread:
            return []
        rows = distributed.all_reduce_sum(torch.stack(self._unread)) / distributed.n_ranks()
        signs = [(loss, entropy, length) for loss, entropy, length in rows.tolist()]
        for step, (loss, _, _) in enumerate(signs, self._first_unread):
            if not math.isfinite(loss):
                raise DivergenceError(f"the loss is {loss} at step {step}; {_CURES}")
        return signs

    def rankme(self) -> float:
        """Effective rank of the newest features of this rank; the losses must be finite."""
        self.require_finite_losses()
        return metrics.rankme(torch.cat(list(self._features)))

    def _judge(self) -> None:
        if len(self._window) < self.settings.collapse_steps:
            return
        window = list(self._window)
        loss, entropy, length = _means(window)
        ln_k, limits = self.ln_k, self.settings
        falls = _means(window[len(window) // 2 :])[0] < _means(window[: len(window) // 2])[0] - _FALLING
        over = f"over the last {len(self._window)} steps"
        if math.isnan(entropy):
            if loss > (1 - _STUCK) * ln_k and not falls:
                self._tell(
                    f"not learning: {over} the loss {loss:.3f} stands at ln K = {ln_k:.3f} and does not fall (|mean embedding|^2 is {length:.3f}); "
                    "raise lr where it is small and lower it where it is large, take more and smaller batches, soften the crops (area, "
                    "augmentation), or use fewer prototypes"
                )
        elif entropy > limits.collapse_entropy * ln_k and length > limits.collapse_embedding:
            self._tell(
                f"collapsed: {over} the mean code entropy is {entropy / ln_k:.3f} ln K and |mean embedding|^2 is {length:.3f}, so every image gets "
                "the same embedding; lower epsilon or lr, raise freeze_steps, soften the crops (area, augmentation), or use fewer prototypes or a larger batch"
            )
        elif entropy > limits.collapse_entropy * ln_k and abs(loss - ln_k) < _STUCK * ln_k and not falls:
            self._tell(
                f"not learning: {over} the loss {loss:.3f} stands at ln K = {ln_k:.3f} and the codes are uniform (entropy {entropy / ln_k:.3f} ln K); "
                "lower epsilon, take more and smaller batches, use LARS or AdamW, or fewer prototypes"
            )
        elif entropy < _SHARP * ln_k and loss > ln_k and not falls:
            self._tell(
                f"not learning: {over} the codes are sharp (entropy {entropy / ln_k:.3f} ln K) but the loss {loss:.3f} stays above ln K = {ln_k:.3f}, so "
                "crops of one image do not agree; raise epsilon or freeze_steps, soften the crops (area, augmentation), lower lr, or enlarge the batch"
            )

    def _tell(self, message: str) -> None:
        if self.settings.on_collapse == "stop":
            raise CollapseError(message + "; --on-collapse warn goes on regardless")
        self.warned = message
        self._window.clear()


def _means(signs: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    loss, entropy, length = (sum(column) / len(signs) for column in zip(*signs, strict=True))
    return loss, entropy, length


def require_finite(x: Tensor, what: str, step: int) -> None:
    """Stops a run whose numbers have blown up; waits for the device.

    Raises:
        DivergenceError: some value is not finite.
    """
    if not torch.isfinite(x).all():
        raise DivergenceError(f"{what} are not finite at step {step}; {_CURES}")
