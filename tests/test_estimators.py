from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import cluster
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import selfcluster as sc
from selfcluster import KMeans
from selfcluster.clustering.kmeans import kmeans
from tests import tiny
from tests.ranks import on_ranks


def _points(n: int = 200, d: int = 4, n_clumps: int = 5, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return 4 * draw.normal(size=(n_clumps, d))[np.arange(n) % n_clumps] + 0.3 * draw.normal(size=(n, d))


@parametrize_with_checks([KMeans(), KMeans(spherical=True, init="random", n_init=2)])
def test_scikit_learns_checks(estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # One check passes strings for numbers, which the run-time check of annotations in these tests would reject.
    monkeypatch.setattr(KMeans, "__init__", inspect.unwrap(KMeans.__init__))
    check(estimator)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_attributes_belong_together(dtype: type, spherical: bool) -> None:
    points = _points().astype(dtype)
    model = KMeans(5, spherical=spherical, random_state=0).fit(points)
    assert model.cluster_centers_.dtype == dtype
    assert model.cluster_centers_.shape == (5, 4)
    assert model.n_features_in_ == 4
    assert np.array_equal(model.predict(points), model.labels_)
    assert np.array_equal(KMeans(5, spherical=spherical, random_state=0).fit_predict(points), model.labels_)
    distances = model.transform(points)
    assert distances.dtype == dtype
    assert np.array_equal(distances.argmin(axis=1), model.labels_)
    assert np.array_equal(KMeans(5, spherical=spherical, random_state=0).fit_transform(points), distances)
    nearest = distances.min(axis=1).astype(np.float64)
    assert model.inertia_ == pytest.approx((nearest if spherical else nearest**2).sum(), rel=1e-5)
    assert model.score(points) == pytest.approx(-model.inertia_)
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=1e-6)


def test_whole_numbers_are_computed_in_float64() -> None:
    points = (10 * _points()).round().astype(np.int64)
    model = KMeans(5, random_state=0).fit(points)
    assert model.cluster_centers_.dtype == np.float64
    assert np.array_equal(model.predict(points.astype(np.float32)), model.labels_)


def test_transform_is_right_far_from_the_origin() -> None:
    points = (_points() + 1e4).astype(np.float32)
    model = KMeans(5, random_state=0).fit(points)
    wide, centers = points.astype(np.float64), model.cluster_centers_.astype(np.float64)
    expected = np.sqrt(((wide[:, None] - centers[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(model.transform(points), expected, rtol=1e-4)
    assert np.array_equal(model.predict(points), expected.argmin(axis=1))


def test_equals_the_function() -> None:
    points = _points()
    model = KMeans(5, init=points[:5], tol=0, max_iter=7).fit(points)
    found = kmeans(points, 5, init=points[:5], iterations=7)
    assert np.array_equal(model.cluster_centers_, found.centroids.numpy())
    assert np.array_equal(model.labels_, found.assignments.numpy())


def test_rounds_are_counted_to_the_first_that_moves_nothing() -> None:
    points = _points()
    for tol in (0.0, 1e-4):
        model = KMeans(5, init=points[:5], tol=tol).fit(points)
        assert model.n_iter_ == 2, "each starts in its own clump"
    assert KMeans(5, init=points[:5], max_iter=1).fit(points).n_iter_ == 1
    assert KMeans(20, init="random", tol=0, random_state=0).fit(points).n_iter_ < 300


def test_more_starts_are_never_worse() -> None:
    points = _points(n=300, n_clumps=20)
    one, many = (KMeans(20, init="random", n_init=n, random_state=3).fit(points) for n in (1, 8))
    assert many.inertia_ < one.inertia_, "the first of the eight is the one"
    again = KMeans(20, init="random", n_init=8, random_state=3).fit(points)
    assert np.array_equal(again.labels_, many.labels_)
    other = KMeans(20, init="random", random_state=np.random.RandomState(4)).fit(points)
    assert not np.array_equal(other.cluster_centers_, one.cluster_centers_)


def test_no_cluster_is_empty() -> None:
    points = np.concatenate([np.full((60, 2), 0.5), np.random.default_rng(0).normal(size=(40, 2))])
    assert len(np.unique(KMeans(41, random_state=0).fit_predict(points))) == 41


def test_as_good_as_scikit_learns_on_the_digits() -> None:
    digits = load_digits().data
    ours, theirs = (kind(10, n_init=10, random_state=0).fit(digits) for kind in (KMeans, cluster.KMeans))
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=0.005)


def test_equals_scikit_learns_from_the_same_start() -> None:
    digits = load_digits().data
    ours, theirs = (kind(10, init=digits[:10], n_init=1, tol=0).fit(digits) for kind in (KMeans, cluster.KMeans))
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    assert np.array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-9)
    np.testing.assert_allclose(ours.transform(digits), theirs.transform(digits), rtol=1e-9)
    assert ours.score(digits) == pytest.approx(theirs.score(digits))


def test_parameters_are_stored_untouched() -> None:
    start = _points()[:5]
    given = {"n_clusters": 5, "init": start, "n_init": 2, "max_iter": 9, "tol": 0.5, "spherical": True, "random_state": 7}
    model = KMeans(**given)
    assert all(model.get_params()[name] is value for name, value in given.items())
    copied = clone(model)
    assert copied is not model
    assert np.array_equal(copied.init, start)
    before = start.copy()
    model.fit(_points())
    assert np.array_equal(start, before)
    assert KMeans().get_params() == {
        "n_clusters": 8,
        "init": "k-means++",
        "n_init": 1,
        "max_iter": 300,
        "tol": 1e-4,
        "spherical": False,
        "random_state": None,
    }


def test_pickled() -> None:
    points = _points()
    model = KMeans(5, random_state=0).fit(points)
    loaded = pickle.loads(pickle.dumps(model))
    assert np.array_equal(loaded.predict(points), model.labels_)


def test_in_a_pipeline_and_a_search() -> None:
    points = _points()
    pipeline = make_pipeline(StandardScaler(), KMeans(random_state=0))
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [2, 5]}, cv=3).fit(points)
    assert search.best_params_ == {"kmeans__n_clusters": 5}
    assert search.predict(points).shape == (200,)
    assert search.best_estimator_[-1].get_feature_names_out().tolist() == [f"kmeans{i}" for i in range(5)]
    assert pipeline.set_params(kmeans__n_clusters=3).fit_transform(points).shape == (200, 3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_init": 0}, ValueError, "n_init must be at least 1, got 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1, got 0"),
        ({"tol": -1.0}, ValueError, "tol must be at least 0, got -1.0"),
        ({"n_clusters": 201}, ValueError, "n_samples=200 should be at least n_clusters=201; lower n_clusters"),
        ({"init": np.zeros((3, 4))}, ValueError, r"init has shape \(3, 4\), but k and the points require \(8, 4\)"),
    ],
)
def test_refuses(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KMeans(**settings).fit(_points())


def test_refuses_part_of_a_cluster() -> None:
    model = KMeans()
    model.n_clusters = 2.5
    with pytest.raises(TypeError):
        model.fit(_points())


def _fitted(points: np.ndarray) -> np.ndarray:
    from selfcluster import distributed

    assert distributed.n_ranks() == 2
    return KMeans(3, random_state=0).fit(points[: 50 + 20 * distributed.rank()]).cluster_centers_


def test_each_rank_has_an_estimator_of_its_own() -> None:
    points = _points()
    for rank, centers in enumerate(on_ranks(_fitted, points)):
        np.testing.assert_allclose(centers, KMeans(3, random_state=0).fit(points[: 50 + 20 * rank]).cluster_centers_)


def test_leaves_torch_alone() -> None:
    before = torch.random.get_rng_state()
    KMeans(3).fit(_points())
    assert torch.equal(torch.random.get_rng_state(), before)


SETTINGS = {name: value for name, value in tiny.SETTINGS.items() if name not in ("epochs", "encoder", "device")}


def learner(**more: Any) -> sc.ClusterLearner:
    given: dict[str, Any] = dict(epochs=2, encoder=tiny.SETTINGS["encoder"], settings=SETTINGS, device="cpu", random_state=0)
    return sc.ClusterLearner(**{**given, **more})


@pytest.fixture(scope="module")
def fitted() -> sc.ClusterLearner:
    return learner(n_clusters=3).fit(tiny.images())


def test_fit_predict_and_transform_agree(fitted: sc.ClusterLearner) -> None:
    images = tiny.images()
    np.testing.assert_array_equal(fitted.predict(images), fitted.labels_)
    assert fitted.n_clusters_ == len(np.unique(fitted.labels_)) == len(fitted.cluster_centers_) == 3
    features = fitted.transform(images)
    assert features.shape == (36, len(fitted.get_feature_names_out()))
    again = learner(n_clusters=3)
    np.testing.assert_array_equal(again.fit_transform(images), features)
    np.testing.assert_array_equal(learner(n_clusters=3).fit_predict(images), fitted.labels_)


def test_without_a_number_the_prototypes_decide() -> None:
    found = learner().fit(tiny.images())
    assert found.n_clusters_ == tiny.SETTINGS["n_prototypes"]
    np.testing.assert_array_equal(found.predict(tiny.images()), found.labels_)


def test_it_is_pickled_with_what_it_learned(fitted: sc.ClusterLearner) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(tiny.images()), fitted.labels_)
    np.testing.assert_array_equal(again.transform(tiny.images()), fitted.transform(tiny.images()))


def test_parameters_by_the_book(fitted: sc.ClusterLearner) -> None:
    assert fitted.get_params()["settings"] is SETTINGS
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(tiny.images())
    assert copy.set_params(n_clusters=5).n_clusters == 5


def test_in_a_pipeline() -> None:
    images, labels = tiny.images(), np.arange(36) % 2
    model = make_pipeline(learner(), LogisticRegression(max_iter=2000)).fit(images, labels)
    assert model.predict(images).shape == (36,)


def test_a_list_of_paths_is_taken_in_its_order(fitted: sc.ClusterLearner, tmp_path: Path) -> None:
    for i, image in enumerate(tiny.images()[:6]):
        Image.fromarray(image).save(tmp_path / f"{9 - i}.png")
    paths = [tmp_path / f"{9 - i}.png" for i in range(6)]
    np.testing.assert_array_equal(fitted.predict(paths), fitted.labels_[:6])
    paths[2].write_bytes(b"no image")
    np.testing.assert_array_equal(fitted.predict([str(path) for path in paths])[:3], [*fitted.labels_[:2], -1])
    with pytest.raises(sc.DataError, match="not a list of paths"):
        fitted.predict([paths[0], 3])


def test_it_is_silent_unless_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = learner(epochs=1, out=tmp_path / "run").fit(tiny.images())
    assert capsys.readouterr().err == ""
    assert any("trained" in line for line in found.log_)
    assert sc.load(tmp_path / "run").config == found.config_
    learner(epochs=1, verbose=True).fit(tiny.images())
    assert "trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [({"n_clusters": 0}, "n_clusters 0"), ({"n_clusters": "20"}, "n_clusters '20'"), ({"settings": {"seed": 1}}, "random_state")],
)
def test_bad_parameters_are_told_before_training(given: dict[str, Any], says: str) -> None:
    with pytest.raises(sc.ConfigError, match=says):
        learner(**given).fit(tiny.images())


def test_it_can_be_fitted_again_into_its_own_folder(tmp_path: Path) -> None:
    again = learner(epochs=1, out=tmp_path / "run").fit(tiny.images())
    again.fit(tiny.images())
    with pytest.raises(sc.CheckpointError, match="already contains a run"):
        learner(epochs=1, out=tmp_path / "run").fit(tiny.images())


def test_nothing_is_written_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learner(epochs=1, out=tmp_path / "run").fit(tiny.images())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("config.toml").write_text("mine = true")
    found.transform(tiny.images(300, pixels=16))
    assert [file.name for file in Path().iterdir()] == ["config.toml"]
