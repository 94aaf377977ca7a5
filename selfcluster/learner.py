"""The scikit-learn door to the whole: from images to features and clusters."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from selfcluster.api import Run, train
from selfcluster.clustering.neighbors import nearest_two
from selfcluster.clusters import cluster
from selfcluster.device import start
from selfcluster.errors import ConfigError


class ClusterLearner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Learns an encoder from unlabelled images by clustering; `transform` gives features, `predict` clusters.

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
        return self._run().embed(X)

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """The cluster of each image, (n_samples,); -1 where it cannot be read."""
        run = self._run()
        points = torch.from_numpy(run.embed(X, layer=self._centroids.layer))
        readable = ~points[:, 0].isnan()
        labels = torch.full((len(points),), -1)
        labels[readable] = nearest_two(points[readable], self._centroids.vectors)[0]
        return labels.numpy()

    def _learn(self, images: Any) -> NDArray[np.float32]:
        flags = {"epochs": self.epochs, "encoder": self.encoder, "max_minutes": self.max_minutes or None}
        given = {**{name: value for name, value in flags.items() if value is not None}, **(self.settings or {})}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._check(given)
        with contextlib.ExitStack() as stack:
            out = self.out if self.out is not None else stack.enter_context(tempfile.TemporaryDirectory()) + "/run"
            said = io.StringIO()
            if not self.verbose:
                stack.enter_context(contextlib.redirect_stderr(said))
            overwrite = hasattr(self, "config_")  # fitted again
            run = train(images, method=self.method, out=out, overwrite=overwrite, device=self.device, seed=seed, **given)
            k = int(self.n_clusters) if isinstance(self.n_clusters, Integral) else self.n_clusters
            found = cluster(run, images, k=k, seed=seed)
        self.log_ = tuple(said.getvalue().splitlines())
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

    def _run(self) -> Run:
        check_is_fitted(self)
        return Run(Path(), self.config_, "", self._model.to(start(self.device)))

    @property
    def _n_features_out(self) -> int:
        return self._model.n_features
