from __future__ import annotations

import pytest

import selfcluster as sc
from selfcluster.api import Run
from tests import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "photos").mkdir()
    tiny.folder_of_images(folder / "photos", n=30, broken=(7,))
    settings = {name: value for name, value in tiny.SETTINGS.items() if name != "epochs"}
    return sc.train(str(folder / "photos"), out=folder / "run", epochs=1, **settings)
