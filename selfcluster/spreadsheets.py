"""Texts in CSV files, which spreadsheets take for formulas if they begin with = + - @ or a tab.

Such a text gets an apostrophe in front, so that none is calculated; so does one that begins with apostrophes and then such a sign, so that
every text can be read back. Numbers stay as they are.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

_FORMULA = "^('*[=+\\-@\t\r])"
_NUMBER = r"^[+\-]?\d+(\.\d+)?$"


def neutralized(text: str) -> str:
    """Return the text as it is written to a CSV file."""
    return f"'{text}" if re.match(_FORMULA, text) and not re.match(_NUMBER, text) else text


def restored(text: str) -> str:
    """Return the text that was written as this one."""
    return text[1:] if text.startswith("'") and re.match(_FORMULA, text[1:]) else text


def with_texts_neutralized(table: pa.Table) -> pa.Table:
    """Return the table with its columns of texts as they are written to a CSV file."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = table.column(place)
            are_numbers = pc.match_substring_regex(texts, _NUMBER)
            table = table.set_column(place, field, pc.if_else(are_numbers, texts, pc.replace_substring_regex(texts, _FORMULA, r"'\1")))
    return table
