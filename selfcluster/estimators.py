"""The scikit-learn API: `KMeans`, and `ClusterLearner` from images to features and clusters."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from selfcluster import distributed
from selfcluster.api import train
from selfcluster.clustering.kmeans import Clustering, kmeans, nearest
from selfcluster.clustering.neighbors import nearest_two
from selfcluster.device import start
from selfcluster.distributed import logger
from selfcluster.errors import ConfigError
from selfcluster.inference.clusters import cluster
from selfcluster.inference.embeddings import embed
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import replace


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """K-means that leaves no cluster empty while some cluster holds two distinct points, and clusters by direction if asked.

    Args:
        n_clusters: at least 1, at most as many as there are points.
        init: "k-means++" (rows far from each other), "random" (different rows), or the centroids to begin with,
            (n_clusters, n_features).
        n_init: starts, at least 1; the one of lowest inertia counts. Given centroids are one start.
        max_iter: rounds of assignment and update, at least 1.
        tol: stop when a round lowers the inertia by less than this share of it, 0 or more; 0 goes on until no point moves.
        spherical: compare by cosine; centers have unit norm.
        random_state: a whole number for the same result every time, a `RandomState`, or None.

    Attributes:
        labels_: cluster of each point of `fit`, (n_samples,).
        cluster_centers_: (n_clusters, n_features); float64 where `fit` was given float64 or whole numbers, float32 for float32.
        inertia_: sum over the points of `fit` of the squared distance to their center; spherical: of 1 - cosine.
        n_iter_: rounds of the start that counts.
        n_features_in_: features seen in `fit`.

    Source: Lloyd, "Least squares quantization in PCM", 1982; see `kmeans`.
    Deviations from scikit-learn's KMeans: empty clusters are filled from the largest by the rule of `kmeans.reassign_empty`, and
    stay empty only where there are fewer distinct points than clusters; `tol` is a share of the inertia, not a movement of the
    centers; k-means++ draws several rows a pass; `spherical`; no sample weights, sparse input or choice of algorithm; several
    ranks do not join their points here, each has an estimator of its own.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        spherical: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.spherical = spherical
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> KMeans:  # noqa: N803
        """The centers are those of the best start.

        Args:
            X: points, (n_samples, n_features), finite.
            y: not looked at.
        Raises:
            ValueError: points that are not finite or no matrix, fewer of them than clusters, or a parameter out of its range.
            TypeError: sparse points, or a count that is not a whole number.
        """
        X = self._checked(X, reset=True)  # noqa: N806
        self._check_parameters(len(X))
        draw = check_random_state(self.random_state)
        n_starts = self.n_init if isinstance(self.init, str) else 1
        best: tuple[float, Clustering] | None = None
        with distributed.alone():
            for _ in range(n_starts):
                found = self._start(X, int(draw.randint(np.iinfo(np.int32).max)))
                # Not the last of found.inertia, which is a difference of large numbers.
                inertia = float(nearest(X, found.centroids, spherical=self.spherical)[1].sum(dtype=torch.float64))
                if best is None or inertia < best[0]:
                    best = (inertia, found)
        assert best is not None
        self.inertia_, found = best
        self.cluster_centers_ = found.centroids.numpy()
        self.labels_ = found.assignments.numpy()
        # Without a tolerance the rounds after the first that moves nothing are written down, but were not needed.
        self.n_iter_ = min(len(found.inertia), int(np.flatnonzero(found.n_reassigned)[-1]) + 2)
        return self

    def _start(self, points: NDArray[Any], seed: int) -> Clustering:
        init: Any = self.init if isinstance(self.init, str) else np.asarray(self.init, dtype=points.dtype)
        return kmeans(
            points,
            index(self.n_clusters),
            iterations=index(self.max_iter),
            spherical=bool(self.spherical),
            init=init,
            tolerance=float(self.tol),
            seed=seed,
        )

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """The nearest center of each point, (n_samples,)."""
        return self._nearest(X)[0].numpy()

    def transform(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The distance of each point to each center, (n_samples, n_clusters); spherical: 1 - cosine."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)  # noqa: N806
        centers = self.cluster_centers_.astype(X.dtype, copy=False)
        if self.spherical:
            return (1 - normalize(X) @ normalize(centers).T).clip(min=0)
        # By products, near points far from the origin would lose their distance.
        x, c = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(centers))
        return torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist").numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Minus the inertia of these points with the nearest centers: more is better."""
        return -float(self._nearest(X)[1].sum(dtype=torch.float64))

    def _nearest(self, X: Any) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: N803
        check_is_fitted(self)
        X = self._checked(X, reset=False)  # noqa: N806
        return nearest(X, torch.from_numpy(self.cluster_centers_.astype(X.dtype)), spherical=self.spherical)

    def _checked(self, X: Any, *, reset: bool) -> NDArray[Any]:  # noqa: N803
        return validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=reset)

    def _check_parameters(self, n_samples: int) -> None:
        for name in ("n_clusters", "n_init", "max_iter"):
            if index(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.tol >= 0:
            raise ValueError(f"tol must be at least 0, got {self.tol}")
        if n_samples < self.n_clusters:
            raise ValueError(f"n_samples={n_samples} should be at least n_clusters={self.n_clusters}; lower n_clusters")

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)


@contextlib.contextmanager
def _listening(*, verbose: bool) -> Iterator[list[str]]:
    """Inside, the list gets what the package logs, and stderr too if asked."""
    said: list[str] = []
    listener = logging.Handler(logging.INFO)
    listener.emit = lambda record: said.extend(record.getMessage().splitlines())  # type: ignore[method-assign]
    handlers = [listener, *([logging.StreamHandler()] if verbose else [])]
    level = logger.level
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield said
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)


class ClusterLearner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Learns an encoder from unlabeled images by clustering; `transform` gives features, `predict` clusters.

    Args:
        method: "swav", "deepcluster", "deepcluster-v2" or "sela-v2".
        n_clusters: clusters of the result, by k-means on features; None for the method's own prototypes, "auto" for a number by silhouette.
        epochs: passes over the images; None for what the recipe advises.
        max_minutes: fit the schedule to this time; 0 for no limit.
        encoder: a timm name; None for what the recipe advises.
        settings: any others of `train` by name, such as {"lr": 0.1, "batch": 64}.
        out: folder in which the run is kept; None keeps none.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        verbose: whether training talks, to stderr.
        random_state: a whole number for the same result every time (on a CPU, with as many threads), a `RandomState`, or None.

    Attributes:
        labels_: cluster of each image of `fit`, (n_samples,); -1 where it cannot be read.
        cluster_centers_: (n_clusters, width), of unit norm: prototypes in the space of embeddings, or means in that of features.
        n_clusters_: how many there are.
        config_: all settings of the training.
        log_: what training said.

    Images are anything that `train` takes (an array (N, H, W) or (N, H, W, 3) of uint8, a folder, an array file), or a list of paths to
    files. A fitted estimator can be pickled: it holds its network, and needs neither the images nor the folder.
    """

    def __init__(
        self,
        method: str = "swav",
        n_clusters: Any = None,
        *,
        epochs: int | None = None,
        max_minutes: float = 0.0,
        encoder: str | None = None,
        settings: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.n_clusters = n_clusters
        self.epochs = epochs
        self.max_minutes = max_minutes
        self.encoder = encoder
        self.settings = settings
        self.out = out
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ClusterLearner:  # noqa: N803
        """Train on images and cluster them; labels are not looked at.

        Raises:
            ConfigError, DataError, CollapseError: as `train`.
        """
        self._learn(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:  # noqa: N803
        """`fit`, and the features of the same images, which are computed once."""
        return self._learn(X)

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """The encoder's features of each image, (n_samples, n_features); NaN where an image cannot be read."""
        return embed(self._run(), X)

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """The cluster of each image, (n_samples,); -1 where it cannot be read."""
        run = self._run()
        points = torch.from_numpy(embed(run, X, layer=self._centroids.layer))
        readable = ~points[:, 0].isnan()
        labels = torch.full((len(points),), -1)
        labels[readable] = nearest_two(points[readable], self._centroids.vectors)[0]
        return labels.numpy()

    def _learn(self, images: Any) -> NDArray[np.float32]:
        flags = {"epochs": self.epochs, "encoder": self.encoder, "max_minutes": self.max_minutes or None}
        # What lies in a folder that goes away must not be read from there.
        kept = {} if self.out is not None else {"keep_features": False}
        given = {**kept, **{name: value for name, value in flags.items() if value is not None}, **(self.settings or {})}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._check(given)
        with contextlib.ExitStack() as stack:
            out = self.out if self.out is not None else stack.enter_context(tempfile.TemporaryDirectory()) + "/run"
            said = stack.enter_context(_listening(verbose=self.verbose))
            overwrite = hasattr(self, "config_")  # fitted again
            run = train(images, method=self.method, out=out, overwrite=overwrite, device=self.device, seed=seed, **given)
            k = int(self.n_clusters) if isinstance(self.n_clusters, Integral) else self.n_clusters
            found = cluster(run.opened, images, k=k, seed=seed)
        self.log_ = tuple(said)
        self.config_ = run.config
        self.labels_ = found.table["cluster"].to_numpy().astype(np.int64)
        self.cluster_centers_ = found.centroids.vectors.numpy()
        self.n_clusters_ = len(self.cluster_centers_)
        self._model, self._centroids = run.model, found.centroids
        return found.features

    def _check(self, given: Mapping[str, Any]) -> None:
        """What would otherwise be found out after training."""
        k = self.n_clusters
        if not (k is None or k == "auto" or (isinstance(k, Integral) and int(k) >= 1)):
            raise ConfigError(f"n_clusters {k!r} must be a whole number of at least 1, 'auto' or None")
        if twice := {"method", "out", "device", "seed", "overwrite", "resume"} & set(given):
            name = sorted(twice)[0]
            raise ConfigError(f"settings hold {name!r}; give {'random_state' if name == 'seed' else name} as a parameter of its own")

    def __getstate__(self) -> dict[str, Any]:
        """With the network on the CPU, so that it can be read where there is no such device."""
        state = dict(super().__getstate__())
        if "_model" in state and next(state["_model"].parameters()).device.type != "cpu":
            state["_model"] = copy.deepcopy(state["_model"]).cpu()
        return state

    def _run(self) -> OpenRun:
        check_is_fitted(self)
        return OpenRun(Path(), replace(self.config_, {"keep_features": False}), "", self._model.to(start(self.device)))

    @property
    def _n_features_out(self) -> int:
        return self._model.n_features
