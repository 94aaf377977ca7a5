from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import selfcluster as sc
from tests import tiny

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


def test_it_is_pickled_with_what_it_learnt(fitted: sc.ClusterLearner) -> None:
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
    with pytest.raises(sc.DataError, match="not of paths"):
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
    with pytest.raises(sc.CheckpointError, match="holds a run already"):
        learner(epochs=1, out=tmp_path / "run").fit(tiny.images())
