"""From the record of a page to its bytes: one HTML file that opens from disk and asks nobody for anything.

Style, script, figures and pictures all stand in the file. Its content security policy allows the one style sheet and the one script
by their hashes, pictures from the file itself, and nothing else, so that no name of a file can bring in markup or reach the network.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from selfcluster.errors import DataError
from selfcluster.formatting import figure
from selfcluster.reporting.curves import curves, series
from selfcluster.reporting.galleries import clusters_of
from selfcluster.reporting.metrics_table import metrics_table
from selfcluster.reporting.page import Page
from selfcluster.reporting.payload import Content, as_json, content_of
from selfcluster.reporting.verdict import judge
from selfcluster.settings.config import flatten

_HERE = Path(__file__).parent

_SCRIPTS = ("data", "colors", "names", "thumbs", "viewer", "clusters", "map", "pointers", "search", "pictures", "start")
"""Files of the script, in their order; together they are one function."""

_NAMES = {"swav": "SwAV", "deepcluster": "DeepCluster", "deepcluster-v2": "DeepCluster-v2", "sela-v2": "SeLa-v2"}

_UNREADABLE = 100
"""Paths of images that cannot be read that are listed."""


def build(page: Page) -> bytes:
    """The page, as UTF-8.

    Raises:
        DataError: no image of the table can be read.
    """
    is_broken = pc.less(page.table["cluster"], 0)
    broken = page.table["path"].filter(is_broken)
    if len(broken) == page.table.num_rows:
        raise DataError(f"none of the {page.table.num_rows:,} images of {page.where} can be read; there is nothing to show")
    clusters = clusters_of(page.table, page.features, large=page.limits.large)
    content = content_of(page, clusters)
    style, script = style_text(), script_text()
    template = _environment().get_template("page.html.jinja")
    text = template.render(
        page=page,
        content=content,
        clusters=clusters,
        broken=broken.slice(0, _UNREADABLE).to_pylist(),
        n_broken=len(broken),
        has_labels="label" in page.table.column_names,
        verdict=judge(page.metrics, page.config, (page.evaluation or {}).get("figures")),
        curves=curves(page.metrics, page.config),
        evaluated=metrics_table(page.evaluation),
        facts=dict(_facts(page)),
        machine=dict(_machine(page.environment)),
        method=_NAMES.get(page.config.method, page.config.method),
        settings=flatten(page.config),
        pictures=_pictures(content),
        data=Markup(as_json(content.data)),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data: blob:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
    )
    # A path may hold what is no text; it is spelt out instead.
    return text.encode("utf-8", "backslashreplace")


def style_text() -> str:
    """The style sheet as it stands in the page."""
    return (_HERE / "page.css").read_text("utf-8")


def script_text() -> str:
    """The script as it stands in the page."""
    parts = [(_HERE / "script" / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "count": "{:,}".format, "setting": _setting}
    return environment


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _pictures(content: Content) -> Iterator[tuple[str, str]]:
    """Name and base64 of each sheet."""
    for size, sheets in content.sheets.items():
        for i, file in enumerate(sheets.files):
            yield f"{size}-{i}", base64.b64encode(file).decode()


def _facts(page: Page) -> Iterator[tuple[str, str]]:
    """What was run, on what: a name and a value each."""
    config = page.config
    optim, begun_from = config.optim, "" if config.model.init == "random" else f", begun from {config.model.init}"
    yield "Images", page.where
    yield "Encoder", f"{config.model.encoder}, {page.features.shape[1]:,} features{begun_from}"
    yield (
        "Crops of an image",
        " + ".join(f"{n} of {side} px" for n, side in zip(config.crops.n_crops, config.crops.crop_pixels, strict=True)),
    )
    yield "Prototypes", " + ".join(f"{n:,}" for n in config.n_prototypes)
    yield "Batch", f"{optim.batch:,}, {optim.optimizer} at a learning rate of {optim.lr:g}"
    if page.metrics:
        step, epoch = (max(row[name] for row in page.metrics) for name in ("step", "epoch"))
        yield "Trained", f"{step:,.0f} of {optim.max_steps:,} steps" if optim.max_steps else f"{epoch + 1:,.0f} of {optim.epochs:,} epochs"
    _, speeds = series(page.metrics, "train/images_per_second")
    if speeds:
        yield "Speed", f"{figure(float(np.median(speeds)))} images/s (median)"
    if "started" in page.environment:
        yield "Begun", str(page.environment["started"])[:16].replace("T", " ")


def _machine(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where and how it was run."""
    if environment.get("command"):
        yield "Command", shlex.join(map(str, environment["command"]))
    if "device" in environment:
        ranks = environment.get("ranks", 1)
        yield "Machine", f"{environment['device']}, {environment.get('platform', '')}{f', {ranks} processes' if ranks > 1 else ''}"
    if environment.get("versions"):
        yield "Versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_setting(part) if not isinstance(part, tuple) else "–".join(map(_setting, part)) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
