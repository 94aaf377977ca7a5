"""The run-time checker of the annotations: beartype, for which a whole number is a number too."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
