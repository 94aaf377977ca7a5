"""Galleries show the right images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from selfcluster.data.readers.images import ArrayImages
from selfcluster.reporting.galleries import cluster_galleries, sample_rows
from tests import pages, tiny


@pytest.fixture(scope="module")
def made() -> pages.Clustered:
    features = pages.clustered(ArrayImages(tiny.images(120))).features.copy()
    features[[5, 50]] = np.nan
    labels: list[str | None] = ["even" if i % 2 == 0 else "odd" for i in range(120)]
    labels[3] = None
    return pages.clustered(ArrayImages(tiny.images(120)), k=5, features=features, labels=labels)


def test_every_readable_image_is_in_one_cluster_and_the_largest_comes_first(made: pages.Clustered) -> None:
    clusters = cluster_galleries(made.table, made.features, n_large=1000)
    assert sum(c.size for c in clusters) == 118
    assert [c.size for c in clusters] == sorted((c.size for c in clusters), reverse=True)


def test_galleries_follow_the_table(made: pages.Clustered) -> None:
    cluster, rank, distance, margin = (made.table[name].to_numpy() for name in ("cluster", "rank_in_cluster", "distance", "margin"))
    for c in cluster_galleries(made.table, made.features, n_large=60):
        members = set(np.flatnonzero(cluster == c.number).tolist())
        shown = list(c.rows)
        assert set(shown) <= members
        assert len(set(shown)) == len(shown)
        assert rank[list(c.typical)].tolist() == list(range(len(c.typical)))
        others = members - set(c.typical)
        assert list(c.least_typical) == sorted(others, key=lambda i: -distance[i])[: len(c.least_typical)]
        others -= set(c.least_typical)
        assert list(c.border) == sorted(others, key=lambda i: margin[i])[: len(c.border)]
        assert len(shown) == min(len(members), 6 + 3 + 3)


def test_galleries_keep_within_the_large_thumbnails(made: pages.Clustered) -> None:
    for large, each in ((140, 28), (139, 12), (60, 12), (59, 7), (0, 7)):
        clusters = cluster_galleries(made.table, made.features, n_large=large)
        assert max(len(c.rows) for c in clusters) == min(each, clusters[0].size)


def test_cohesion_is_the_mean_cosine_with_the_centroid(made: pages.Clustered) -> None:
    cluster = made.table["cluster"].to_numpy()
    for c in cluster_galleries(made.table, made.features, n_large=60):
        rows = made.features[cluster == c.number]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        mean = unit.mean(axis=0)
        assert c.cohesion == pytest.approx(float((unit @ mean / np.linalg.norm(mean)).mean()), abs=1e-4)


def test_label_shares_ignore_missing_labels(made: pages.Clustered) -> None:
    cluster = made.table["cluster"].to_numpy()
    for c in cluster_galleries(made.table, made.features, n_large=60):
        labels = [i % 2 for i in np.flatnonzero(cluster == c.number) if i != 3]
        most = max(labels.count(0), labels.count(1))
        assert c.label_share == pytest.approx(most / len(labels))
        assert c.label == ("even" if labels.count(0) == most and labels.count(0) != labels.count(1) else c.label)


def test_a_table_in_several_pieces_is_the_same_table(made: pages.Clustered) -> None:
    pieces = pa.concat_tables([made.table.slice(30, 50).slice(0, 0), made.table.slice(0, 50), made.table.slice(50)])
    assert pieces["label"].num_chunks > 1
    assert cluster_galleries(pieces, made.features, n_large=60) == cluster_galleries(made.table, made.features, n_large=60)


def test_similar_clusters_are_others(made: pages.Clustered) -> None:
    clusters = cluster_galleries(made.table, made.features, n_large=60)
    for c in clusters:
        assert len(c.similar) == 3
        assert c.number not in c.similar


def test_a_sample_has_the_galleries_and_as_many_images_as_asked(made: pages.Clustered) -> None:
    required = [7, 9, *(row for c in cluster_galleries(made.table, made.features, n_large=30) for row in c.rows)]
    readable = np.flatnonzero(made.table["cluster"].to_numpy() >= 0)
    rows = sample_rows(readable, required, n_points=80, seed=0)
    assert len(rows) == 80
    assert (np.diff(rows) > 0).all()
    assert set(required) <= set(rows.tolist()) <= set(readable.tolist())
    assert rows.tolist() != sample_rows(readable, required, n_points=80, seed=1).tolist()
    assert sample_rows(readable, required, n_points=118, seed=0).tolist() == readable.tolist()
    assert sample_rows(readable, required, n_points=1, seed=0).tolist() == sorted(set(required))
