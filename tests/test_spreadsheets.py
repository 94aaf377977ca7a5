"""No text of a CSV file is a formula, and every text can be read back."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from selfcluster.inference.cluster_table import write_table
from selfcluster.spreadsheets import neutralized, restored

TEXTS = [
    "=1+1.jpg",
    "+a",
    "-b/c.png",
    "@sum",
    "\tx",
    "\rx",
    "'=a",
    "''-b",
    "'plain",
    "plain",
    "",
    "a=b",
    "'",
    "1-2",
    "-1",
    "+2.5",
    "'-1",
    "-1e5",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_can_be_read_back(text: str) -> None:
    assert restored(neutralized(text)) == text
    assert not neutralized(text).startswith(("=", "+", "-", "@", "\t", "\r")) or text in ("-1", "+2.5")


def test_the_texts_of_a_table_are_written_so_and_its_numbers_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"path": TEXTS, "name": [None, *TEXTS[1:]], "margin": [-1.5] * len(TEXTS)})
    write_table(table, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(map(neutralized, TEXTS))
    assert {row["margin"] for row in rows} == {"-1.5"}
