"""ONNX: the network as a graph that runs without Python, on any number of images at once.

torch has two exporters. The older one traces TorchScript and has been deprecated since torch 2.9; the newer one (`dynamo=True`)
captures the network by torch.export and is there in every torch from 2.6 on. The newer one is used in all of them: it is the one
with a future, and a batch that it could not leave open would be an error, where a trace would fix the example's silently.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfcluster.errors import ConfigError
from selfcluster.exporters.verification import Difference, Source, difference, preprocessing, probe
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import Config

FILES: tuple[str, ...] = ("model.onnx", "model.onnx.data", "preprocessing.json")

_OPSET = 18
"""The least that the exporter knows, for the most runtimes."""
_LARGEST_FILE = 2**31 - 2**24
"""Weights of more bytes stand in a file of their own, since a protobuf cannot be larger than 2 GiB."""
BATCHES = (1, 2, 5)
"""Batches at which the graph is compared with the network; it was captured at 2."""


class _Layer(nn.Module):
    """From normalized images to what is asked for, under names that the graph gets."""

    def __init__(self, network: ClusterModel, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode(images) if self.layer == "features" else self.network.project(images)


def check(config: Config[Any]) -> None:
    """Raises ConfigError where the extra is not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}: pip install 'selfcluster[onnx]'")


def write(folder: Path, source: Source) -> Difference:
    """The folder holds the graph, with its preprocessing in it and beside it; onnxruntime has run it at several batches.

    Raises:
        ConfigError: the exporter cannot express the network.
    """
    module, images = _Layer(source.network, source.layer).eval(), probe(source)
    description = {**preprocessing(source), "output": _output(source, module(images[:1]).shape[1])}
    description["input"] = {"name": "images", **description["input"]}
    n_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    _capture(module, images[:2], folder / "model.onnx", source, external_data=n_bytes > _LARGEST_FILE)
    _describe(folder / "model.onnx", description, source)
    (folder / "preprocessing.json").write_text(json.dumps(description, indent=1))
    run = _session(folder / "model.onnx")
    return max((difference(run, module, images[:n]) for n in BATCHES), key=lambda found: found.largest)


def _output(source: Source, width: int) -> dict[str, Any]:
    has_head = any(True for _ in source.network.head.parameters())  # DeepCluster has none
    what = "the head's output, rows of unit norm" if source.layer == "head" and has_head else "the encoder's output"
    return {"name": source.layer, "shape": ["batch", width], "dtype": "float32", "what": what}


def _capture(module: nn.Module, images: Tensor, file: Path, source: Source, *, external_data: bool) -> None:
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (images,),
                str(file),
                dynamo=True,
                input_names=["images"],
                output_names=[source.layer],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                opset_version=_OPSET,
                external_data=external_data,
                optimize=True,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # the exporter raises kinds of its own for what it cannot express
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"torch's ONNX exporter cannot express encoder {source.encoder_name!r}: {reason}; use --format timm") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter keeps its notices about versions and rewritten operators to itself; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _describe(file: Path, description: dict[str, Any], source: Source) -> None:
    """The graph tells what it wants and where it is from, to whoever opens it without the JSON."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False)
    # The exporter notes for each node the lines of source that it comes from, and with them folders of this machine.
    for part in (
        graph.graph,
        *graph.graph.node,
        *graph.graph.value_info,
        *graph.graph.initializer,
        *graph.graph.input,
        *graph.graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    properties = {
        "preprocessing": json.dumps(description),
        "encoder": source.config.model.encoder,
        "method": source.config.method,
        "producer": f"selfcluster {version('selfcluster')}",
    }
    onnx.helper.set_model_props(graph, properties)
    onnx.save(graph, str(file))
    onnx.checker.check_model(str(file))


def _session(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about initializers that it removes
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def notes(source: Source) -> tuple[str, ...]:
    """What the user of the file has to know."""
    batches = f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}"
    return (f"compared in onnxruntime at batches of {batches}; the preprocessing is in the model's metadata and in preprocessing.json",)


def next_step(path: Path, source: Source) -> str:
    """How to load it, ready to paste."""
    return f"next, in Python: import onnxruntime; session = onnxruntime.InferenceSession({str(path / 'model.onnx')!r})"
