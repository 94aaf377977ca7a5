"""The verdict on a run in words: healthy, undertrained, not learning or collapsing, with the reasons.

Collapse and not learning are judged by the rules that stop training (`training.health`), the rest by rules of the page. None needs labels;
where an evaluation exists, its baselines count too. A metric's value is that at the end of training, see `at_the_end`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfcluster.evaluation.metric_titles import knn_metrics
from selfcluster.evaluation.trust import Trust
from selfcluster.models.patches import PATCHES
from selfcluster.reporting.curves import Rows, series
from selfcluster.settings.config import BUNDLED, Config
from selfcluster.training.health import WINDOW_STEPS, Health, Problem, falls, ln_k, problem_of

VerdictState = Literal["healthy", "undertrained", "doubtful", "not learning", "collapsing", "not trained", "unknown"]

HEADLINES: dict[VerdictState, str] = {
    "healthy": "It learns, and nothing points to a collapse.",
    "undertrained": "It has not finished learning: more training, or another setting, should help.",
    "doubtful": "Do not trust these clusters yet: neighbors and clusters follow colors and places more than content.",
    "not learning": "It learns nothing from these images: change a setting, then train again.",
    "collapsing": "The embeddings no longer tell images apart: do not use this encoder.",
    "not trained": "These are clusters of the encoder's features; no network was trained on the images.",
    "unknown": "There are no metrics of the training, so nothing can be said about it.",
}

_STILL_FALLING = 0.02
"""A loss still falls if the mean of its last fifth is lower than that of the fifth before by more than this share of ln K."""

_CLOSE_TOGETHER = 0.8
"""Squared length of the mean embedding above which embeddings are close together."""

_FLAT_RANK = 2.0
"""Effective rank below which the features differ in one direction only."""

_FEW_PROTOTYPES = 0.2
"""Share of the prototypes in use below which there are more than enough."""

_LARGE_CLUSTER = 0.5
"""Share of the images in one cluster above which it is worth a note."""

_UNSETTLED = 0.5
"""Normalized mutual information with the previous clusters below which clusters still change from epoch to epoch."""

_FEW_PASSES, _FEW_STEPS = 10, 10_000
"""Fewer passes over the images are seldom enough, unless there are so many images that they take more steps than this."""

_PRETRAINED = "pretrained encoder"
_FLOORS = ("raw pixels", "patches", _PRETRAINED, "untrained encoder", "encoder before training")
"""Baselines that an encoder has to beat; an evaluation may contain other encoders too."""

_ONLY_COLOR, _MUCH_COLOR = 0.9, 0.25
"""Share of the images whose cluster their mean color tells, from which clusters are of color alone; and share of those outside the largest
cluster from which color is worth a note."""

_WAITS = 0.3
"""Share of the time that a step may wait for its images."""


@dataclass(frozen=True)
class Sign:
    """One observation and what it means."""

    means: Literal["good", "collapse", "not learning", "doubt", "unfinished", "note"]
    text: str


@dataclass(frozen=True)
class Verdict:
    """The state of a run, with the reasons."""

    state: VerdictState
    signs: tuple[Sign, ...]
    """The reasons; those that decide come first."""
    command: str = ""
    """The command that would help most; "" where a setting must change first, see the signs."""

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return HEADLINES[self.state]


_DECIDE: dict[VerdictState, str] = {
    "collapsing": "collapse",
    "not learning": "not learning",
    "doubtful": "doubt",
    "undertrained": "unfinished",
    "healthy": "good",
}
"""The kind of sign that decides for each state, worst first."""


def judge(
    rows: Rows,
    config: Config[Any],
    figures: Mapping[str, Mapping[str, float]] | None = None,
    trust: Trust | None = None,
    *,
    folder: str = "RUN",
    where: str = "DATA",
) -> Verdict:
    """Return the verdict that follows from the metrics of a run.

    Args:
        rows: of metrics.jsonl, oldest first.
        config: of the run.
        figures: of an evaluation, by representation and metric; None where there is none.
        trust: tests of encoder and clusters; None where there are none.
        folder, where: the run's folder and its images, for commands to paste.
    Returns:
        the verdict; "unknown" where no loss was recorded.
    """
    tested = tuple(_tests(trust, is_frozen=config.method == "explore")) if trust is not None else ()
    is_doubtful = any(sign.means == "doubt" for sign in tested)
    losses = _latest(rows, "train/loss")
    if config.method == "explore" or not losses:
        frozen: VerdictState = "doubtful" if is_doubtful else "not trained" if config.method == "explore" else "unknown"
        return Verdict(frozen, tested, _command(frozen, config, "", folder, where))
    health = Health(
        loss=sum(losses) / len(losses),
        loss_falls=falls(losses),
        ln_k=ln_k(config.n_prototypes),
        code_entropy=at_the_end(rows, "collapse/code_entropy"),
        mean_embedding=at_the_end(rows, "collapse/mean_embedding"),
    )
    problem = problem_of(health)
    longer = _longer(rows, config, folder)
    signs = [Sign("collapse" if problem == "same embedding" else "not learning", _reason(problem, health))] if problem else []
    signs += [*_embeddings(rows, health, problem), *_clusters(rows, config.n_prototypes[0]), *_loss(rows, health, problem, longer)]
    signs += [*_course(rows, config, longer), *_floors(figures or {}), *tested]
    meanings = {sign.means for sign in signs}
    state: VerdictState = next((state for state, kind in _DECIDE.items() if kind in meanings), "healthy")
    ordered = sorted(signs, key=lambda sign: (sign.means != _DECIDE[state], sign.means == "note"))
    return Verdict(state, tuple(ordered), _command(state, config, longer, folder, where))


def _command(state: VerdictState, config: Config[Any], longer: str, folder: str, where: str) -> str:
    """Return the command that would help most."""
    match state:
        case "undertrained":
            return longer
        case "doubtful" if config.method != "explore" or config.model.encoder == PATCHES:
            return f"selfcluster explore {shlex.quote(where)}"
        case "doubtful":
            return f"selfcluster train {shlex.quote(where)} --init {shlex.quote(folder)}"
        case "healthy" | "not trained":
            return f"selfcluster apply {shlex.quote(folder)} NAMES.csv --copy-to FOLDER"
        case _:
            return ""


def what_clusters_follow(trust: Trust) -> str:
    """Return what clusters follow, in a word or three, by the test of mean colors."""
    excess = _excess(trust)
    if excess < _MUCH_COLOR:
        return "more than color"
    return "only color or brightness" if trust.cluster_by_color >= _ONLY_COLOR else "color in part"


def _excess(trust: Trust) -> float:
    """Return the share of the images outside the largest cluster whose cluster their mean color tells."""
    return (trust.cluster_by_color - trust.largest) / max(1 - trust.largest, 1e-9)


def _tests(trust: Trust, *, is_frozen: bool) -> Iterator[Sign]:
    """Yield signs of whether the encoder recognizes images, and whether clusters follow more than color."""
    how = "gray, cropped and mirrored" if trust.are_mirrored else "gray and cropped"
    found = f"{how.capitalize()}, {_percent(trust.found)} of {trust.n:,} images are found again by their features"
    pixels = f"by a few raw pixels, {_percent(trust.found_by_pixels)}"
    if trust.found > trust.found_by_pixels:
        yield Sign("good", f"{found}; {pixels}.")
    else:
        advice = "Try another --encoder." if is_frozen else "Train longer, or use a pretrained encoder: selfcluster explore."
        yield Sign("doubt", f"{found}, no more than {pixels}. {advice}")
    follows = f"Clusters follow {what_clusters_follow(trust)}"
    by_color = f"The mean color of an image tells the cluster of {_percent(trust.cluster_by_color)} of the images"
    if _excess(trust) < _MUCH_COLOR:
        yield Sign("good", f"{follows}. {by_color}, where the largest cluster has {_percent(trust.largest)}.")
    elif trust.cluster_by_color >= _ONLY_COLOR:
        yield Sign("doubt", f"{follows}. {by_color}.")
    else:
        yield Sign("note", f"{follows}. {by_color}, where the largest cluster has {_percent(trust.largest)}.")


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
        case "stuck loss":
            return f"The loss stays at {h.loss:.2f}, where ln K = {h.ln_k:.2f} is that of a network that tells no images apart. Change --lr or --batch."
        case "uniform codes":
            return f"The loss stays at ln K = {h.ln_k:.2f}, and the codes are uniform (entropy {h.code_entropy:.2f} ln K). Lower --epsilon."
        case "sharp codes":
            return (
                f"The loss stays at {h.loss:.2f}, above ln K = {h.ln_k:.2f}, though the codes are sharp (entropy {h.code_entropy:.2f} ln K): "
                "crops of one image do not agree. Raise --epsilon."
            )


def _embeddings(rows: Rows, h: Health, problem: Problem | None) -> Iterator[Sign]:
    """Yield signs of whether images have different embeddings, features and codes."""
    if h.mean_embedding is not None and problem != "same embedding":
        length = f"the mean embedding has a squared length of {h.mean_embedding:.2f}, where 1 is a collapse"
        is_close = h.mean_embedding > _CLOSE_TOGETHER
        yield (
            Sign("note", f"Embeddings are close together: {length}.")
            if is_close
            else Sign("good", f"Images have different embeddings: {length}.")
        )
    rank = _last(rows, "collapse/rankme")
    if rank is not None and rank < _FLAT_RANK:
        yield Sign("unfinished", f"The features have an effective rank of {rank:.1f}: they differ in one direction only. Lower --lr.")
    elif rank is not None:
        yield Sign("good", f"The features have an effective rank of {rank:.0f}.")
    if h.code_entropy is not None and h.has_uniform_codes and problem not in ("same embedding", "uniform codes"):
        yield Sign(
            "unfinished", f"The codes are still nearly uniform (entropy {h.code_entropy:.2f} ln K). Lower --epsilon, or train longer."
        )
    elif h.code_entropy is not None and not h.has_uniform_codes and problem != "sharp codes":
        yield Sign("good", f"The codes tell images apart: their entropy is {h.code_entropy:.2f} ln K.")


def _clusters(rows: Rows, k: int) -> Iterator[Sign]:
    """Yield signs of whether the clusters of training are many and settled."""
    used, largest, settled = (
        of_metric(rows, name)
        for of_metric, name in ((_last, "collapse/prototypes_used"), (_last, "cluster/largest_share"), (at_the_end, "cluster/nmi_previous"))
    )
    if used is not None:
        text = f"{used:.0f} of {k:,} prototypes are in use"
        yield Sign("note", f"{text}; a smaller --n-prototypes would be enough.") if used < _FEW_PROTOTYPES * k else Sign("good", f"{text}.")
    if largest is not None and largest > _LARGE_CLUSTER and k > 2:
        yield Sign("note", f"One cluster contains {_percent(largest)} of the images.")
    if settled is not None and settled < _UNSETTLED:
        yield Sign("unfinished", f"Clusters still change from epoch to epoch: the last have an NMI of {settled:.2f} with those before.")
    elif settled is not None:
        yield Sign("good", f"Clusters have settled: the last have an NMI of {settled:.2f} with those before.")


def _loss(rows: Rows, h: Health, problem: Problem | None, longer: str) -> Iterator[Sign]:
    """Yield signs of whether the loss has left ln K, and whether it still falls."""
    _, values = series(rows, "train/loss")
    if h.has_left_ln_k and len(values) == 1:
        yield Sign("good", f"The loss is {h.loss:.2f}, below ln K = {h.ln_k:.2f}.")
    elif h.has_left_ln_k:
        yield Sign("good", f"The loss fell from {values[0]:.2f} to {h.loss:.2f}, below ln K = {h.ln_k:.2f}.")
    elif problem in (None, "same embedding"):
        yield Sign(
            "unfinished",
            f"The loss is {h.loss:.2f} and has hardly left ln K = {h.ln_k:.2f}, the loss of a network that tells no images apart.",
        )
    fifth = len(values) // 5
    if fifth >= 2:
        before, after = (sum(part) / fifth for part in (values[-2 * fifth : -fifth], values[-fifth:]))
        if before - after > _STILL_FALLING * h.ln_k:
            yield Sign(
                "unfinished", f"The loss still falls: by {before - after:.2f} over the last fifth of the steps. Train longer: {longer}."
            )


def _done(rows: Rows) -> tuple[float, float]:
    """Return the steps and epochs that are done."""
    return max(row["step"] for row in rows), max(row["epoch"] for row in rows) + 1


def _is_stopped(rows: Rows, config: Config[Any]) -> bool:
    """Return whether training stopped before its end."""
    (step, epoch), optim = _done(rows), config.optim
    if not optim.max_steps:
        return epoch < optim.epochs
    # Rows are written every log_steps, so the last one may be that many steps before the end. Epochs may end before max_steps.
    return step < optim.max_steps - config.run.log_steps and epoch < optim.epochs


def _longer(rows: Rows, config: Config[Any], folder: str) -> str:
    """Return the command that trains the run on: to its end, or for twice as many epochs."""
    resume = f"selfcluster train --resume --out {shlex.quote(folder)}"
    return resume if _is_stopped(rows, config) else f"{resume} --epochs {max(_FEW_PASSES, round(2 * _done(rows)[1]))}"


def _course(rows: Rows, config: Config[Any], longer: str) -> Iterator[Sign]:
    """Yield signs of whether training reached its end, saw the images often enough, and did not wait for them."""
    (step, epoch), optim = _done(rows), config.optim
    if _is_stopped(rows, config):
        done = f"{step:,.0f} of {optim.max_steps:,} steps" if optim.max_steps else f"{epoch:,.0f} of {optim.epochs:,} epochs"
        yield Sign("unfinished", f"Training stopped after {done}. Resume with: {longer}.")
    if epoch < _FEW_PASSES and step < _FEW_STEPS and config.model.init == "random":
        times = "once" if epoch == 1 else f"{epoch:.0f} times"
        yield Sign(
            "unfinished",
            f"No image was seen more than {times}; so few images need tens of passes. Train longer: {longer}.",
        )
    waits = at_the_end(rows, "train/data_wait")
    if waits is not None and waits > _WAITS:
        yield Sign("note", f"A step waits {_percent(waits)} of its time for images; --cache-gib or --workers may reduce this.")


def _floors(figures: Mapping[str, Mapping[str, float]]) -> Iterator[Sign]:
    """Yield signs of whether the encoder beats the baselines, by nearest neighbors and by clusters, if it was evaluated against labels."""
    own = figures.get("trained encoder", {})
    sentences = dict.fromkeys(knn_metrics(own)[:1], "Nearest neighbors find") | {"cluster/accuracy": "Clusters find"}
    not_beaten: list[str] = []
    for metric, find in sentences.items():
        floors = {name: figures[name][metric] for name in _FLOORS if metric in figures.get(name, {})}
        if metric not in own or not floors:
            continue
        found = f"{find} the class of {_percent(own[metric])} of the images"
        by_floor = {name: f"{name if name.endswith('s') else f'the {name}'} ({_percent(floor)})" for name, floor in floors.items()}
        if as_good := [name for name, floor in floors.items() if own[metric] <= floor]:
            *others, last = (by_floor[name] for name in as_good)
            yield Sign("unfinished", f"{found}, no better than with {', '.join(others)}{' or ' if others else ''}{last}.")
            not_beaten += as_good
        else:
            yield Sign("good", f"{found}, better than with {by_floor[max(floors, key=lambda name: floors[name])]}.")
    if _PRETRAINED in not_beaten:
        start = f"--encoder {BUNDLED} --init pretrained"
        yield Sign(
            "note", f"The pretrained encoder comes with the install: use it as it is (selfcluster explore), or train from it ({start})."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
