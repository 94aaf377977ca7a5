"""The page as one HTML file, which opens from disk and loads nothing.

Styles, script, curves and thumbnails are all inside. The content security policy allows the style sheet and the script by their hashes,
images from the file itself and, where the images lie in a folder, from disk, and nothing else, so that no file name can inject markup or
reach the network.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from selfcluster.errors import DataError
from selfcluster.formatting import figure, short
from selfcluster.reporting.curves import curves, series
from selfcluster.reporting.galleries import cluster_galleries
from selfcluster.reporting.metrics_table import metrics_table
from selfcluster.reporting.page import Page
from selfcluster.reporting.payload import build_payload
from selfcluster.reporting.summary import summary, title
from selfcluster.reporting.verdict import judge
from selfcluster.runs.environment import Environment
from selfcluster.settings.config import flatten

_HERE = Path(__file__).parent

_SCRIPTS = (
    "data",
    "colors",
    "names",
    "tree",
    "thumbs",
    "viewer",
    "clusters",
    "mosaic",
    "map",
    "captions",
    "legend",
    "lasso",
    "pointers",
    "search",
    "lists",
    "prototypes",
    "start",
)
"""Files of the script, in order; together they are one function."""

_METHOD_NAMES = {"swav": "SwAV", "deepcluster": "DeepCluster", "deepcluster-v2": "DeepCluster-v2", "sela-v2": "SeLa-v2"}

_MAX_UNREADABLE = 100
"""Unreadable images that are listed."""

_TEMPLATES = Templates(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.filters |= {"figure": figure, "count": "{:,}".format, "setting": short, "base64": lambda data: base64.b64encode(data).decode()}
_TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}


def build(page: Page) -> bytes:
    """Return the HTML of a page, in UTF-8.

    Raises:
        DataError: no image of the table can be read.
    """
    unreadable = page.table["path"].filter(pc.less(page.table["cluster"], 0))
    if len(unreadable) == page.table.num_rows:
        raise DataError(f"none of the {page.table.num_rows:,} images of {page.where or 'the array'} can be read; there is nothing to show")
    clusters = cluster_galleries(page.table, page.features, n_large=page.limits.n_large)
    style, script = style_text(), script_text()
    text = _TEMPLATES.get_template("page.html.jinja").render(
        page=page,
        payload=build_payload(page, clusters),
        clusters=clusters,
        unreadable=unreadable.slice(0, _MAX_UNREADABLE).to_pylist(),
        n_unreadable=len(unreadable),
        has_labels="label" in page.table.column_names,
        title=title(page.table.num_rows - len(unreadable), len(clusters)),
        summary=summary(page.table, page.trust),
        verdict=judge(
            page.metrics,
            page.config,
            (page.evaluation or {}).get("figures"),
            page.trust,
            folder=page.folder,
            where=page.where or "DATA",
        ),
        curves=curves(page.metrics, page.config),
        evaluated=metrics_table(page.evaluation),
        facts=dict(_facts(page)),
        machine=dict(_machine(page.environment)),
        method=_METHOD_NAMES.get(page.config.method, page.config.method),
        settings=flatten(page.config),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data: blob:{' file:' if page.originals else ''}; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
    )
    # Bytes of a path that are not text are escaped.
    return text.encode("utf-8", "backslashreplace")


def style_text() -> str:
    """Return the style sheet of the page."""
    return (_HERE / "page.css").read_text("utf-8")


def script_text() -> str:
    """Return the script of the page."""
    parts = [(_HERE / "script" / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _facts(page: Page) -> Iterator[tuple[str, str]]:
    """Yield the main settings and figures of the run, each with a name."""
    config, optim = page.config, page.config.optim
    crops = zip(config.crops.n_crops, config.crops.crop_pixels, strict=True)
    yield "Images", page.where or "an array"
    origins = {"random": "", "pretrained": ", pretrained"}
    start = origins.get(config.model.init, f", initialized from {config.model.init}")
    yield "Encoder", f"{config.model.encoder}, {page.features.shape[1]:,} features{start}"
    if config.method == "explore":
        yield "Pixels", f"{config.crops.crop_pixels[0]} x {config.crops.crop_pixels[0]}"
        return
    yield "Crops per image", " + ".join(f"{n} of {side} px" for n, side in crops)
    yield "Prototypes", " + ".join(f"{n:,}" for n in config.n_prototypes)
    yield "Batch", f"{optim.batch:,}, {optim.optimizer}, learning rate {optim.lr:g}"
    if page.metrics:
        step, epoch = (max(row[name] for row in page.metrics) for name in ("step", "epoch"))
        yield "Trained", f"{step:,.0f} of {optim.max_steps:,} steps" if optim.max_steps else f"{epoch + 1:,.0f} of {optim.epochs:,} epochs"
    _, speeds = series(page.metrics, "train/images_per_second")
    if speeds:
        yield "Speed", f"{figure(float(np.median(speeds)))} images/s (median)"
    if page.environment.started:
        yield "Started", page.environment.started[:16].replace("T", " ")


def _machine(environment: Environment) -> Iterator[tuple[str, str]]:
    """Yield the command, the machine and the versions, as far as they are known."""
    if environment.command:
        yield "Command", shlex.join(environment.command)
    if environment.device:
        ranks = f", {environment.ranks} processes" if environment.ranks > 1 else ""
        yield "Machine", f"{environment.device}, {environment.platform}{ranks}"
    if environment.versions:
        yield "Versions", ", ".join(f"{name} {version}" for name, version in environment.versions.items())
