"""Run-time checker of annotations: beartype, which here accepts an int where a float is declared."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
