"""The verdict on a run in words: healthy, undertrained, not learning or collapsing, with the reasons.

Collapse and not learning are judged by the rules that stop training (`training.health`), the rest by rules of the page. None needs labels;
where an evaluation exists, its baselines count too. A metric's value is that at the end of training, see `at_the_end`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfcluster.reporting.curves import Rows, series
from selfcluster.settings.config import Config
from selfcluster.training.health import COLLAPSED, WINDOW_STEPS, Health, Problem, falls, ln_k, problems

VerdictState = Literal["healthy", "undertrained", "not learning", "collapsing", "unknown"]

HEADLINES: dict[VerdictState, str] = {
    "healthy": "It learns, and nothing points to a collapse.",
    "undertrained": "It has not finished learning: more training, or another setting, should help.",
    "not learning": "It learns nothing from these images: change a setting, then train again.",
    "collapsing": "The embeddings no longer tell images apart: do not use this encoder.",
    "unknown": "There are no metrics of the training, so nothing can be said about it.",
}

_STILL_FALLING = 0.02
"""Share of ln K by which a loss falls from the fifth before the last to the last if it still falls."""

_CLOSE_TOGETHER = 0.8
"""Squared length of the mean embedding above which the page has a note."""

_SOME_PROTOTYPES = 0.2
"""Share of the prototypes in use below which the page has a note."""

_LARGE_CLUSTER = 0.5
"""Share of the images in one cluster above which the page has a note."""

_UNSETTLED = 0.5
"""Normalized mutual information with the previous clusters below which clusters still change from epoch to epoch."""

_FEW_PASSES, _FEW_STEPS = 10, 10_000
"""Fewer passes over the images are seldom enough, unless there are so many images that they take more steps than this."""

_FLOORS = ("raw pixels", "untrained encoder", "encoder before training")
"""Baselines that an encoder has to beat; an evaluation may contain other encoders too."""

_WAITS = 0.3
"""Share of the time that a step may wait for its images."""


@dataclass(frozen=True)
class Sign:
    """One observation and what it means."""

    means: Literal["good", "collapse", "not learning", "unfinished", "note"]
    text: str


@dataclass(frozen=True)
class Verdict:
    """The state of a run, with the reasons."""

    state: VerdictState
    signs: tuple[Sign, ...]
    """The reasons; those that decide come first."""

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return HEADLINES[self.state]


_DECIDE: dict[VerdictState, str] = {
    "collapsing": "collapse",
    "not learning": "not learning",
    "undertrained": "unfinished",
    "healthy": "good",
}
"""The kind of sign that decides for each state, worst first."""


def judge(rows: Rows, config: Config[Any], figures: Mapping[str, Mapping[str, float]] | None = None) -> Verdict:
    """Return the verdict that follows from the metrics of a run.

    Args:
        rows: of metrics.jsonl, oldest first.
        config: of the run.
        figures: of an evaluation, by representation and metric; None where there is none.
    Returns:
        the verdict; "unknown" where no loss was recorded.
    """
    losses = _latest(rows, "train/loss")
    if not losses:
        return Verdict("unknown", ())
    health = Health(
        loss=sum(losses) / len(losses),
        loss_falls=falls(losses),
        ln_k=ln_k(config.n_prototypes),
        n_prototypes=config.n_prototypes[0],
        code_entropy=at_the_end(rows, "collapse/code_entropy"),
        mean_embedding=at_the_end(rows, "collapse/mean_embedding"),
        rank=_last(rows, "collapse/rankme"),
        prototypes_used=_last(rows, "collapse/prototypes_used"),
        largest_cluster=_last(rows, "cluster/largest_share"),
    )
    found = problems(health)
    signs = [Sign("collapse" if problem in COLLAPSED else "not learning", _reason(problem, health)) for problem in found]
    signs += [*_embeddings(health, found), *_clusters(rows, health, found), *_loss(rows, health, found)]
    signs += [*_course(rows, config), *_floors(figures or {})]
    meanings = {sign.means for sign in signs}
    state: VerdictState = next((state for state, kind in _DECIDE.items() if kind in meanings), "healthy")
    return Verdict(state, tuple(sorted(signs, key=lambda sign: (sign.means != _DECIDE[state], sign.means == "note"))))


def _latest(rows: Rows, name: str) -> list[float]:
    """Return a metric's values over the steps that collapse detection averages over, or over the later half of a shorter run."""
    steps, values = series(rows, name)
    last = steps[-1] if steps else 0
    n_steps = WINDOW_STEPS if last >= WINDOW_STEPS else last / 2
    return [value for step, value in zip(steps, values, strict=True) if step > last - n_steps or step == last]


def at_the_end(rows: Rows, name: str) -> float | None:
    """Return the mean of a metric's latest values; None where it has none."""
    values = _latest(rows, name)
    return sum(values) / len(values) if values else None


def _last(rows: Rows, name: str) -> float | None:
    """Return the last value of a metric that is itself taken over many images; None where it has none."""
    return next(reversed(series(rows, name)[1]), None)


def _reason(problem: Problem, h: Health) -> str:
    """Return what a problem that stops training looks like, and what may help."""
    match problem:
        case "same embedding":
            return (
                f"All images have nearly the same embedding: the mean embedding has a squared length of {h.mean_embedding:.2f}, and the codes are "
                f"uniform (entropy {h.code_entropy:.2f} ln K). Lower --lr or --epsilon."
            )
        case "one cluster":
            return f"One cluster contains {_percent(h.largest_cluster or 0)} of the images. Lower --lr."
        case "one direction":
            return f"The features have an effective rank of {h.rank:.1f}: they differ in one direction only. Lower --lr."
        case "few prototypes":
            return f"Only {h.prototypes_used:.0f} of {h.n_prototypes:,} prototypes are in use. Lower --lr or --epsilon."
        case "stuck loss":
            return f"The loss stays at {h.loss:.2f}, where ln K = {h.ln_k:.2f} is that of a network that tells no images apart. Change --lr or --batch."
        case "uniform codes":
            return f"The loss stays at ln K = {h.ln_k:.2f}, and the codes are uniform (entropy {h.code_entropy:.2f} ln K). Lower --epsilon."
        case "sharp codes":
            return (
                f"The loss stays at {h.loss:.2f}, above ln K = {h.ln_k:.2f}, though the codes are sharp (entropy {h.code_entropy:.2f} ln K): "
                "crops of one image do not agree. Raise --epsilon."
            )


def _embeddings(h: Health, found: list[Problem]) -> Iterator[Sign]:
    """Whether images have different embeddings, features and codes."""
    if h.mean_embedding is not None and "same embedding" not in found:
        length = f"the mean embedding has a squared length of {h.mean_embedding:.2f}, where 1 is a collapse"
        is_close = h.mean_embedding > _CLOSE_TOGETHER
        yield (
            Sign("note", f"Embeddings are close together: {length}.")
            if is_close
            else Sign("good", f"Images have different embeddings: {length}.")
        )
    if h.rank is not None and "one direction" not in found:
        yield Sign("good", f"The features have an effective rank of {h.rank:.0f}.")
    if h.code_entropy is not None and h.has_uniform_codes and not {"same embedding", "uniform codes"} & set(found):
        yield Sign(
            "unfinished", f"The codes are still nearly uniform (entropy {h.code_entropy:.2f} ln K). Lower --epsilon, or train longer."
        )
    elif h.code_entropy is not None and not h.has_uniform_codes and "sharp codes" not in found:
        yield Sign("good", f"The codes tell images apart: their entropy is {h.code_entropy:.2f} ln K.")


def _clusters(rows: Rows, h: Health, found: list[Problem]) -> Iterator[Sign]:
    """Whether the clusters of training are many and settled."""
    if h.prototypes_used is not None and "few prototypes" not in found:
        used = f"{h.prototypes_used:.0f} of {h.n_prototypes:,} prototypes are in use"
        is_few = h.prototypes_used < _SOME_PROTOTYPES * h.n_prototypes
        yield Sign("note", f"{used}; fewer --n-prototypes would do.") if is_few else Sign("good", f"{used}.")
    if h.largest_cluster is not None and h.largest_cluster > _LARGE_CLUSTER and h.n_prototypes > 2 and "one cluster" not in found:
        yield Sign("note", f"One cluster contains {_percent(h.largest_cluster)} of the images.")
    settled = at_the_end(rows, "cluster/nmi_previous")
    if settled is not None and settled < _UNSETTLED:
        yield Sign("unfinished", f"Clusters still change from epoch to epoch: the last have an NMI of {settled:.2f} with those before.")
    elif settled is not None:
        yield Sign("good", f"Clusters have settled: the last have an NMI of {settled:.2f} with those before.")


def _loss(rows: Rows, h: Health, found: list[Problem]) -> Iterator[Sign]:
    """Whether the loss has left ln K, and whether it has come to rest."""
    _, values = series(rows, "train/loss")
    if h.has_left_ln_k:
        yield Sign("good", f"The loss fell from {values[0]:.2f} to {h.loss:.2f}, below ln K = {h.ln_k:.2f}.")
    elif set(found) <= COLLAPSED:
        yield Sign(
            "unfinished",
            f"The loss is {h.loss:.2f} and has hardly left ln K = {h.ln_k:.2f}, the loss of a network that tells no images apart.",
        )
    fifth = len(values) // 5
    if fifth >= 2:
        before, after = (sum(part) / fifth for part in (values[-2 * fifth : -fifth], values[-fifth:]))
        if before - after > _STILL_FALLING * h.ln_k:
            yield Sign(
                "unfinished", f"The loss still falls: by {before - after:.2f} over the last fifth of the steps. Train longer: --epochs."
            )


def _course(rows: Rows, config: Config[Any]) -> Iterator[Sign]:
    """Whether training reached its end, saw the images often enough, and did not wait for them."""
    step, epoch = max(row["step"] for row in rows), max(row["epoch"] for row in rows) + 1
    optim = config.optim
    planned, done, unit = (optim.max_steps, step, "steps") if optim.max_steps else (optim.epochs, epoch, "epochs")
    # Rows are written every log_steps, so the last one may be that many steps before the end. Epochs may end before max_steps.
    if done < planned - (config.run.log_steps if optim.max_steps else 0) and epoch < optim.epochs:
        yield Sign(
            "unfinished", f"Training stopped after {done:,.0f} of {planned:,} {unit}. Resume with: selfcluster train --resume --out RUN."
        )
    if epoch < _FEW_PASSES and step < _FEW_STEPS:
        times = "once" if epoch == 1 else f"{epoch:.0f} times"
        yield Sign(
            "unfinished",
            f"No image was seen more than {times}; so few images need tens of passes. Train longer: --epochs, or --max-minutes.",
        )
    waits = at_the_end(rows, "train/data_wait")
    if waits is not None and waits > _WAITS:
        yield Sign("note", f"A step waits {_percent(waits)} of its time for images; --cache-gib or --workers may shorten that.")


def _floors(figures: Mapping[str, Mapping[str, float]]) -> Iterator[Sign]:
    """Whether the encoder beats the baselines, where it was evaluated."""
    metric = "eval/knn_top1_k20"
    trained = figures.get("trained encoder", {}).get(metric)
    floors = {name if name.endswith("s") else f"the {name}": figures[name][metric] for name in _FLOORS if metric in figures.get(name, {})}
    if trained is None or not floors:
        return
    found = f"Nearest neighbors find the class of {_percent(trained)} of the images"
    for name, floor in floors.items():
        if trained <= floor:
            yield Sign("unfinished", f"{found}, no better than with {name} ({_percent(floor)}).")
    best = max(floors, key=lambda name: floors[name])
    if trained > floors[best]:
        yield Sign("good", f"{found}, better than with {best} ({_percent(floors[best])}).")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
