"""The scikit-learn API: `KMeans` on points, `ClusterLearner` on images."""

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
from selfcluster.clustering.kmeans import kmeans, nearest
from selfcluster.device import start
from selfcluster.distributed import logger
from selfcluster.errors import ConfigError
from selfcluster.inference.clusters import cluster, nearest_clusters
from selfcluster.inference.embeddings import embed
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import replace


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """K-means without empty clusters, Euclidean or spherical.

    Args:
        n_clusters: number of clusters, at least 1, at most the number of points.
        init: "k-means++" (rows far from each other), "random" (different rows), or initial centroids (n_clusters, n_features).
        n_init: number of starts, at least 1; the result is the one of lowest inertia. Initial centroids are one start.
        max_iter: largest number of iterations, at least 1.
        tol: stop when an iteration lowers the inertia by less than this share of it, at least 0; 0 for until no point moves.
        spherical: compare by cosine; centers have unit norm.
        random_state: an integer for reproducible results, a `RandomState`, or None.

    Attributes:
        labels_: cluster of each training point, (n_samples,).
        cluster_centers_: (n_clusters, n_features); float32 if the training points were float32, or else float64.
        inertia_: sum of squared distances of the training points to their centers; spherical: of 1 - cosine.
        n_iter_: number of iterations of the best start.
        n_features_in_: number of features of the training points.

    Source: Lloyd, "Least squares quantization in PCM", 1982; see `kmeans`.
    Deviations from scikit-learn's KMeans: empty clusters are filled from the largest (see `clustering.empty_clusters`) and
    stay empty only if there are fewer distinct points than clusters; `tol` is a share of the inertia, not a movement of the centers;
    k-means++ draws several rows per pass; `spherical`; no sample weights, sparse input or choice of algorithm; under torchrun each
    rank fits its own points.
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
        """Cluster the points.

        Args:
            X: points, (n_samples, n_features), finite.
            y: ignored.
        Raises:
            ValueError: points that are not finite or not a matrix, fewer points than clusters, or a parameter out of range.
            TypeError: sparse points, or a count that is not an integer.
        """
        X = self._checked(X, reset=True)  # noqa: N806
        self._check_parameters(len(X))
        init: Any = self.init if isinstance(self.init, str) else np.asarray(self.init, dtype=X.dtype)
        with distributed.alone():
            found = kmeans(
                X,
                index(self.n_clusters),
                iterations=index(self.max_iter),
                spherical=bool(self.spherical),
                init=init,
                n_init=index(self.n_init),
                tolerance=float(self.tol),
                seed=int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
            )
            # Not the last of found.inertia, which is a difference of large numbers.
            self.inertia_ = float(nearest(X, found.centroids, spherical=self.spherical)[1].sum(dtype=torch.float64))
        self.cluster_centers_ = found.centroids.numpy()
        self.labels_ = found.assignments.numpy()
        # Without a tolerance, the iterations after the first that moves no point are recorded too.
        self.n_iter_ = min(len(found.inertia), int(np.flatnonzero(found.n_reassigned)[-1]) + 2)
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """Return the nearest center of each point, (n_samples,)."""
        return self._nearest(X)[0].numpy()

    def transform(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the distance of each point to each center, (n_samples, n_clusters); spherical: 1 - cosine."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)  # noqa: N806
        centers = self.cluster_centers_.astype(X.dtype, copy=False)
        if self.spherical:
            return (1 - normalize(X) @ normalize(centers).T).clip(min=0)
        # By matrix products, the distances of close points far from the origin would lose their digits.
        x, c = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(centers))
        return torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist").numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return minus the inertia of these points; larger is better."""
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


class _Collector(logging.Handler):
    """A handler that keeps the lines of the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()


@contextlib.contextmanager
def _collected_log(*, verbose: bool) -> Iterator[list[str]]:
    """Collect what the package logs in the list, and print it to stderr if asked."""
    collector, level = _Collector(), logger.level
    handlers = [collector, *([logging.StreamHandler()] if verbose else [])]
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield collector.lines
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)


class ClusterLearner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Image encoder learned by clustering: `transform` returns features, `predict` clusters.

    Args:
        method: "swav", "deepcluster", "deepcluster-v2" or "sela-v2".
        n_clusters: number of clusters of the features, at least 2; None for the prototypes of the method, "auto" for as many as stand out.
        epochs: number of passes over the images; None to let the recipe choose.
        max_minutes: fit the schedule to this time; 0 for no limit.
        encoder: a timm name; None to let the recipe choose.
        settings: other settings of `train` by name, such as {"lr": 0.1, "batch": 64}.
        out: run folder to keep; None to keep none.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        verbose: print the log of the training to stderr.
        random_state: an integer for reproducible results (on a CPU, with the same number of threads), a `RandomState`, or None.

    Attributes:
        labels_: cluster of each training image, (n_samples,); -1 if it cannot be read.
        cluster_centers_: (n_clusters, n_features): mean direction of each cluster in the centered features; zeros if it has no images.
        n_clusters_: number of clusters.
        config_: settings of the training.
        log_: log messages of the training.

    Images are anything that `train` takes (an array (N, H, W) or (N, H, W, 3) of uint8, a folder, an array file), or a list of file
    paths. A fitted estimator can be pickled: it contains its network, and needs neither the images nor the run folder.
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
        """Train on the images and cluster them; `y` is ignored.

        Raises:
            ConfigError, DataError, CollapseError: as in `train`.
        """
        self._learn(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:  # noqa: N803
        """Fit, and return the features of the images, which are computed once."""
        return self._learn(X)

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the features of each image, (n_samples, n_features); NaN if it cannot be read."""
        return embed(self._run(), X)

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """Return the cluster of each image, (n_samples,); -1 if it cannot be read."""
        run = self._run()
        features = torch.from_numpy(embed(run, X))
        is_readable = ~features[:, 0].isnan()
        labels = np.full(len(features), -1)
        labels[is_readable.numpy()] = nearest_clusters(run, features[is_readable], self._centroids)[0]
        return labels

    def _learn(self, images: Any) -> NDArray[np.float32]:
        flags = {"epochs": self.epochs, "encoder": self.encoder, "max_minutes": self.max_minutes or None}
        # Features kept in a temporary run folder would be of no use.
        kept = {} if self.out is not None else {"keep_features": False}
        given = {**kept, **{name: value for name, value in flags.items() if value is not None}, **(self.settings or {})}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._check(given)
        with contextlib.ExitStack() as stack:
            out = self.out if self.out is not None else stack.enter_context(tempfile.TemporaryDirectory()) + "/run"
            log = stack.enter_context(_collected_log(verbose=self.verbose))
            overwrite = hasattr(self, "config_")
            run = train(images, method=self.method, out=out, overwrite=overwrite, device=self.device, seed=seed, **given)
            k = int(self.n_clusters) if isinstance(self.n_clusters, Integral) else self.n_clusters
            found = cluster(run.opened, images, k=k, seed=seed)
        self.log_ = tuple(log)
        self.config_ = run.config
        self.labels_ = found.table["cluster"].to_numpy().astype(np.int64)
        self.cluster_centers_ = found.centroids.means.numpy()
        self.n_clusters_ = len(self.cluster_centers_)
        self._model, self._centroids = run.model, found.centroids
        return found.features

    def _check(self, given: Mapping[str, Any]) -> None:
        """Check before training what would fail after it."""
        k = self.n_clusters
        if not (k is None or k == "auto" or (isinstance(k, Integral) and int(k) >= 2)):
            raise ConfigError(f"n_clusters {k!r} must be an integer of at least 2, 'auto' or None")
        if twice := {"method", "out", "device", "seed", "overwrite", "resume"} & set(given):
            name = sorted(twice)[0]
            raise ConfigError(f"settings contain {name!r}; use the parameter {'random_state' if name == 'seed' else name} instead")

    def __getstate__(self) -> dict[str, Any]:
        """Move the network to the CPU, so that it can be unpickled on machines without the device."""
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
