"""The verdict on a run in words: healthy, collapsing or undertrained, with the reasons.

No rule needs labels; where an evaluation is there, its floors count too. The signs are those of docs/training.md, read at the end of
training: the mean of the last tenth of a metric's rows. One sign of a collapse makes the run "collapsing"; else one sign of training that is not
finished makes it "undertrained".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfcluster.reporting.curves import Rows, ln_k, series
from selfcluster.settings.config import Config

State = Literal["healthy", "undertrained", "collapsing", "unknown"]

HEADLINES: dict[State, str] = {
    "healthy": "It learns, and nothing points to a collapse.",
    "undertrained": "It has not finished learning: more training, or another setting, should help.",
    "collapsing": "Images are losing what tells them apart: do not use this encoder.",
    "unknown": "There are no figures of the training, so nothing can be said of it.",
}

_NEAR_LN_K = 0.03
"""A loss within this share of ln K has hardly left it."""

_STILL_FALLING = 0.02
"""A loss still falls if it does so by this share of ln K from the fifth before the last to the last."""

_UNIFORM_CODES = 0.95
"""Above this share of ln K codes are still nearly uniform."""

_CLOSE_TOGETHER = 0.8
"""A mean embedding of a squared length above this is worth a note."""

_FEW_PROTOTYPES = 0.01
_SOME_PROTOTYPES = 0.2
"""Shares of K: below the first nearly all images share a prototype, above the second there is nothing to say."""

_FLAT_RANK = 2.0
"""An effective rank below this leaves one direction."""

_ONE_CLUSTER = 0.5
"""A cluster that holds more than this share of the images."""

_UNSETTLED = 0.5
"""Normalized mutual information with the clusters before, below which clusters still change from epoch to epoch."""

_FEW_PASSES, _FEW_STEPS = 10, 10_000
"""Fewer passes over the images are seldom enough, unless there are so many images that they take more steps than this."""

_FLOORS = ("raw pixels", "untrained encoder", "encoder before training")
"""What an encoder has to beat; an evaluation may hold other encoders beside."""

_WAITS = 0.3
"""Share of the time that a step may wait for its images."""


@dataclass(frozen=True)
class Sign:
    """One observation and what it means."""

    means: Literal["good", "collapse", "unfinished", "note"]
    text: str


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of a run."""

    state: State
    signs: tuple[Sign, ...]
    """The reasons; those that decide come first."""

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return HEADLINES[self.state]


def judge(rows: Rows, config: Config[Any], figures: Mapping[str, Mapping[str, float]] | None = None) -> Verdict:
    """The verdict that follows from the run's own figures.

    Args:
        rows: of metrics.jsonl, oldest first.
        config: of the run.
        figures: of an evaluation, by representation and metric; None where there is none.
    Returns:
        the verdict; "unknown" where no loss was recorded.
    """
    if not series(rows, "train/loss")[1]:
        return Verdict("unknown", ())
    signs = [*_embeddings(rows, config), *_clusters(rows, config), *_loss(rows, config), *_schedule(rows, config)]
    signs += [*_passes(rows), *_floors(figures or {}), *_pace(rows)]
    meanings = {sign.means for sign in signs}
    state: State = "collapsing" if "collapse" in meanings else "undertrained" if "unfinished" in meanings else "healthy"
    first = {"collapsing": "collapse", "undertrained": "unfinished", "healthy": "good"}[state]
    return Verdict(state, tuple(sorted(signs, key=lambda sign: (sign.means != first, sign.means == "note"))))


def at_the_end(rows: Rows, name: str) -> float | None:
    """The mean of the last tenth of a metric's values; None where it has none."""
    _, values = series(rows, name)
    last = values[-math.ceil(len(values) / 10) :] if values else []
    return sum(last) / len(last) if last else None


def _embeddings(rows: Rows, config: Config[Any]) -> Iterator[Sign]:
    """Whether images still have embeddings of their own."""
    entropy, length, rank = (at_the_end(rows, f"collapse/{name}") for name in ("code_entropy", "mean_embedding", "rankme"))
    if length is not None and length > config.health.collapse_embedding:
        codes = (
            f", and their codes are uniform (entropy {entropy:.2f} ln K)" if entropy and entropy > config.health.collapse_entropy else ""
        )
        yield Sign(
            "collapse", f"All images have nearly one embedding: the mean embedding has a squared length of {length:.2f}{codes}. Lower --lr."
        )
    elif length is not None and length > _CLOSE_TOGETHER:
        yield Sign("note", f"Embeddings lie close together: their mean has a squared length of {length:.2f}, where 1 is a collapse.")
    elif length is not None:
        yield Sign(
            "good", f"Images have embeddings of their own: the mean embedding has a squared length of {length:.2f}, where 1 is a collapse."
        )
    if rank is not None and rank < _FLAT_RANK:
        yield Sign("collapse", f"The features have an effective rank of {rank:.1f}: one direction holds nearly all that they say.")
    elif rank is not None:
        yield Sign("good", f"The features have an effective rank of {rank:.0f}.")
    if entropy is not None and entropy > _UNIFORM_CODES:
        yield Sign("unfinished", f"The codes are still nearly uniform (entropy {entropy:.2f} ln K). Lower --epsilon, or train longer.")
    elif entropy is not None:
        yield Sign("good", f"The codes tell images apart: their entropy is {entropy:.2f} ln K.")


def _clusters(rows: Rows, config: Config[Any]) -> Iterator[Sign]:
    """Whether the clusters that training makes are many and settled."""
    k = config.n_prototypes[0]
    used, largest, settled = (
        at_the_end(rows, name) for name in ("collapse/prototypes_used", "cluster/largest_share", "cluster/nmi_previous")
    )
    if used is not None and used < max(min(2, 0.6 * k), _FEW_PROTOTYPES * k):
        yield Sign("collapse", f"Only {used:.0f} of {k:,} prototypes are in use.")
    elif used is not None and used < _SOME_PROTOTYPES * k:
        yield Sign("note", f"{used:.0f} of {k:,} prototypes are in use; fewer --n-prototypes would do.")
    elif used is not None:
        yield Sign("good", f"{used:.0f} of {k:,} prototypes are in use.")
    if largest is not None and largest > _ONE_CLUSTER and k > 2:
        yield Sign("collapse", f"One cluster holds {_percent(largest)} of the images.")
    if settled is not None and settled < _UNSETTLED:
        yield Sign("unfinished", f"Clusters still change from epoch to epoch: the last share {settled:.2f} (NMI) with those before.")
    elif settled is not None:
        yield Sign("good", f"Clusters have settled: the last share {settled:.2f} (NMI) with those before.")


def _loss(rows: Rows, config: Config[Any]) -> Iterator[Sign]:
    """Whether the loss has left ln K, and whether it has come to rest."""
    _, values = series(rows, "train/loss")
    limit, last = ln_k(config), at_the_end(rows, "train/loss")
    assert last is not None
    if last > (1 - _NEAR_LN_K) * limit:
        yield Sign(
            "unfinished", f"The loss is {last:.2f} and has hardly left ln K = {limit:.2f}, the loss of a network that tells nothing."
        )
    else:
        yield Sign("good", f"The loss fell from {values[0]:.2f} to {last:.2f}, below ln K = {limit:.2f}.")
    fifth = len(values) // 5
    if fifth >= 2:
        before, after = (sum(part) / fifth for part in (values[-2 * fifth : -fifth], values[-fifth:]))
        if before - after > _STILL_FALLING * limit:
            yield Sign(
                "unfinished", f"The loss still falls: by {before - after:.2f} over the last fifth of the steps. Train longer: --epochs."
            )


def _schedule(rows: Rows, config: Config[Any]) -> Iterator[Sign]:
    """Whether training went to its end."""
    step, epoch = max(row["step"] for row in rows), max(row["epoch"] for row in rows) + 1
    optim = config.optim
    planned, done, unit = (optim.max_steps, step, "steps") if optim.max_steps else (optim.epochs, epoch, "epochs")
    # A metric is noted once in log_steps, so the last of them stand up to that many steps before the end. Epochs may end before max_steps.
    if done < planned - (config.run.log_steps if optim.max_steps else 0) and epoch < optim.epochs:
        yield Sign(
            "unfinished", f"Training stopped after {done:,.0f} of {planned:,} {unit}. Go on with: selfcluster train --resume --out RUN."
        )


def _passes(rows: Rows) -> Iterator[Sign]:
    """Whether images were seen often enough."""
    step, epoch = max(row["step"] for row in rows), max(row["epoch"] for row in rows) + 1
    if epoch < _FEW_PASSES and step < _FEW_STEPS:
        times = "once" if epoch == 1 else f"{epoch:.0f} times"
        yield Sign(
            "unfinished",
            f"No image was seen more than {times}; it takes tens of passes over so few. Train longer: --epochs, or --max-minutes.",
        )


def _floors(figures: Mapping[str, Mapping[str, float]]) -> Iterator[Sign]:
    """Whether the encoder beats its floors, where it was measured."""
    metric = "eval/knn_top1_k20"
    trained = figures.get("trained encoder", {}).get(metric)
    if trained is None:
        return
    floors = {name: figures[name][metric] for name in _FLOORS if metric in figures.get(name, {})}
    found = f"Nearest neighbors find the class of {_percent(trained)} of the images"
    for name, floor in floors.items():
        if trained <= floor:
            yield Sign("unfinished", f"{found}, no better than with {_floor(name)} ({_percent(floor)}).")
    if floors and trained > max(floors.values()):
        best = max(floors, key=lambda name: floors[name])
        yield Sign("good", f"{found}, better than with {_floor(best)} ({_percent(floors[best])}).")


def _floor(name: str) -> str:
    return name if name.endswith("s") else f"the {name}"


def _pace(rows: Rows) -> Iterator[Sign]:
    """Whether the network waits for its images."""
    waits = at_the_end(rows, "train/data_wait")
    if waits is not None and waits > _WAITS:
        yield Sign("note", f"A step waits {_percent(waits)} of its time for images; --cache-gib or --workers may shorten that.")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
