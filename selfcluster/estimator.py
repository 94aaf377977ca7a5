"""The scikit-learn door: `kmeans` as an estimator."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from selfcluster import distributed
from selfcluster.clustering.kmeans import Clustering, kmeans, nearest


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """K-means that leaves no cluster empty while some cluster holds two distinct points, and clusters by direction if asked.

    Args:
        n_clusters: at least 1, at most as many as there are points.
        init: "k-means++" (rows far from each other), "random" (different rows), or the centroids to begin with,
            (n_clusters, n_features).
        n_init: starts, at least 1; the one of lowest inertia counts. Given centroids are one start.
        max_iter: rounds of assignment and update, at least 1.
        tol: stop when a round lowers the inertia by less than this share of it, 0 or more; 0 goes on until no point moves.
        spherical: compare by cosine; centres have unit norm.
        random_state: a whole number for the same result every time, a `RandomState`, or None.

    Attributes:
        labels_: cluster of each point of `fit`, (n_samples,).
        cluster_centers_: (n_clusters, n_features); float64 where `fit` was given float64 or whole numbers, float32 for float32.
        inertia_: sum over the points of `fit` of the squared distance to their centre; spherical: of 1 - cosine.
        n_iter_: rounds of the start that counts.
        n_features_in_: features seen in `fit`.

    Source: Lloyd, "Least squares quantization in PCM", 1982; see `kmeans`.
    Deviations from scikit-learn's KMeans: empty clusters are filled from the largest by the rule of `kmeans.reassign_empty`, and
    stay empty only where there are fewer distinct points than clusters; `tol` is a share of the inertia, not a movement of the
    centres; k-means++ draws several rows a pass; `spherical`; no sample weights, sparse input or choice of algorithm; several
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
        """The centres are those of the best start.

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
        """The nearest centre of each point, (n_samples,)."""
        return self._nearest(X)[0].numpy()

    def transform(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The distance of each point to each centre, (n_samples, n_clusters); spherical: 1 - cosine."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)  # noqa: N806
        centers = self.cluster_centers_.astype(X.dtype, copy=False)
        if self.spherical:
            return (1 - normalize(X) @ normalize(centers).T).clip(min=0)
        # By products, near points far from the origin would lose their distance.
        x, c = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(centers))
        return torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist").numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Minus the inertia of these points with the nearest centres: more is better."""
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
