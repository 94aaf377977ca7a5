from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from selfcluster.errors import DataError
from selfcluster.inference.names import read_names

TABLE = pa.table(
    {
        "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"],
        "cluster": [0, 0, 0, 1, 2, -1],
        "centroid": [0, 0, 1, 2, 3, -1],
    }
)
NAMES = ("", "", "")


def partition(tmp_path: Path, text: str, names: tuple[str, ...] = NAMES) -> list[tuple[str, ...]]:
    """Return the images of each group, after its name."""
    (tmp_path / "names.csv").write_text(text)
    found = read_names(tmp_path / "names.csv", TABLE, names)
    assert found.groups[5] == -1
    return [(name, *(TABLE["path"][i].as_py() for i in range(6) if found.groups[i] == g)) for g, name in enumerate(found.names)]


def test_clusters_are_named_and_the_rest_stays(tmp_path: Path) -> None:
    assert partition(tmp_path, "cluster,name\n1,dogs\n") == [("", "a.jpg", "b.jpg", "c.jpg"), ("dogs", "d.jpg"), ("", "e.jpg")]


def test_names_that_are_there_already_stay_or_are_taken_away(tmp_path: Path) -> None:
    assert partition(tmp_path, "cluster,name\n1,dogs\n", ("cats", "", "")) == [
        ("cats", "a.jpg", "b.jpg", "c.jpg"),
        ("dogs", "d.jpg"),
        ("", "e.jpg"),
    ]
    assert partition(tmp_path, "cluster,name\n0,\n", ("cats", "", ""))[0] == ("", "a.jpg", "b.jpg", "c.jpg")


def test_clusters_of_one_name_are_merged(tmp_path: Path) -> None:
    assert partition(tmp_path, "cluster,name\n1,pets\n2,pets\n") == [("", "a.jpg", "b.jpg", "c.jpg"), ("pets", "d.jpg", "e.jpg")]


def test_images_with_different_names_are_split(tmp_path: Path) -> None:
    text = "path,cluster,name\na.jpg,0,cats\nb.jpg,0,cats\nc.jpg,0,lions\nd.jpg,1,\n"
    assert partition(tmp_path, text) == [("cats", "a.jpg", "b.jpg"), ("lions", "c.jpg"), ("", "d.jpg"), ("", "e.jpg")]


def test_an_image_that_is_not_listed_goes_with_its_centroid(tmp_path: Path) -> None:
    assert partition(tmp_path, "path,cluster,name\na.jpg,0,cats\nc.jpg,0,lions\n")[0] == ("cats", "a.jpg", "b.jpg")


def test_a_spreadsheet_with_a_byte_order_mark_and_other_columns_is_read(tmp_path: Path) -> None:
    assert ("dogs", "d.jpg") in partition(tmp_path, "\ufeffcluster,name,note\r\n1, dogs ,mine\r\n")


@pytest.mark.parametrize("text", ["cluster;name\r\n1;dogs\r\n", "Cluster\tName\n1\tdogs\n"])
def test_spreadsheets_of_other_countries_are_read(tmp_path: Path, text: str) -> None:
    assert ("dogs", "d.jpg") in partition(tmp_path, text)


def test_another_encoding_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_bytes("cluster,name\n1,Käfer\n".encode("latin-1"))
    with pytest.raises(DataError, match="it is not UTF-8; save it as CSV UTF-8"):
        read_names(tmp_path / "names.csv", TABLE, NAMES)


def test_a_cluster_that_is_called_otherwise_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    partition(tmp_path, "cluster,name\n0,cats\n1,dogs\n", ("ticks", "dogs", ""))
    assert "cluster 0, which was called 'ticks', is now 'cats'; numbers change when clusters merge or split" in caplog.text
    assert "dogs" not in caplog.text


def test_clusters_of_one_size_keep_their_order(tmp_path: Path) -> None:
    text = "path,cluster,name\ne.jpg,2,\nd.jpg,1,\nc.jpg,0,\nb.jpg,0,\na.jpg,0,\n"
    assert partition(tmp_path, text) == [("", "a.jpg", "b.jpg", "c.jpg"), ("", "d.jpg"), ("", "e.jpg")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'cluster'"),
        ("number;name\n1;dogs\n", "has no column 'cluster' .it has number, name."),
        ("cluster,name\n", "has no rows"),
        ("cluster,name\n1\n", "line 2 .* too few columns"),
        ("cluster,name\nx,dogs\n", "the cluster 'x' is not a number"),
        ("cluster,name\n٣,dogs\n", "is not a number"),
        ("cluster,name\n7,dogs\n", "there is no cluster 7; the run has 3, from 0 to 2"),
        ("cluster,name\n1,dogs\n1,cats\n", "line 3 .*: cluster 1 is already named 'dogs'"),
        ("cluster,name\n0,pets\n1,pets\n2,pets\n", "leaves one cluster"),
        ("cluster,name\n0,Pets\n1,pets\n", "'Pets' and 'pets' differ only in capitals"),
        ("cluster,name\n0,=1+1\n", "begins with '=', which spreadsheets"),
        ("cluster,name\n0,a/b\n", "contains '/'"),
        ("cluster,name\n0,<b>\n", "contains '<'"),
        ("cluster,name\n0,..\n", "begins or ends with a dot"),
        ("cluster,name\n0,Cluster 3\n", "that of a cluster without a name"),
        ("cluster,name\n0," + "x" * 101 + "\n", "has 101 characters"),
        ("path,cluster,name\nz.jpg,0,cats\n", "the run has no image 'z.jpg'"),
        ("path,cluster,name\na.jpg,0,cats\na.jpg,0,dogs\n", "'a.jpg' is listed before"),
    ],
)
def test_what_cannot_be_applied_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        partition(tmp_path, text)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read names"):
        read_names(tmp_path / "none.csv", TABLE, NAMES)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read names"):
        read_names(tmp_path / "binary.csv", TABLE, NAMES)
