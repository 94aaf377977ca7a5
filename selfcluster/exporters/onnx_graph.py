"""ONNX: the network as a graph that runs without Python, at any batch size.

Uses torch's exporter that captures the network by torch.export (`dynamo=True`), available since torch 2.6. The older one, which traces
TorchScript, is deprecated since torch 2.9, and would silently fix the batch size of the example where this one raises an error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from selfcluster.errors import ConfigError
from selfcluster.exporters.classifier import Classifier, class_names
from selfcluster.exporters.verification import Difference, Source, difference, preprocessing, probe
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import Config

FILES: tuple[str, ...] = ("model.onnx", "model.onnx.data", "preprocessing.json")

_OPSET = 18
"""Lowest version that the exporter supports, for the most runtimes."""
_LARGEST_FILE = 2**31 - 2**24
"""Larger weights, in bytes, go to a separate file, since a protobuf cannot exceed 2 GiB."""
_BATCHES = (1, 2, 5)
"""Batch sizes at which the graph is compared with the network; it is captured at 2."""


class _Layer(nn.Module):
    """The network with a single output, from normalized images to a layer; the graph takes its argument names."""

    def __init__(self, network: ClusterModel, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode(images) if self.layer == "features" else self.network.project(images)


def check(config: Config[Any]) -> None:
    """Raise ConfigError if the extra is not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx requires {', '.join(missing)}: pip install 'selfcluster[onnx]'")


def write(folder: Path, source: Source) -> Difference:
    """Write the graph, with its preprocessing as metadata and as JSON, and compare it in onnxruntime at several batch sizes.

    Raises:
        ConfigError: the exporter cannot express the network.
    """
    import onnxruntime

    centroids = source.centroids
    module: nn.Module = _Layer(source.network, source.layer) if centroids is None else Classifier(source.network, centroids)
    module, images = module.eval(), probe(source)
    has_head = any(True for _ in source.network.head.parameters())  # DeepCluster has none
    what = "the head's output, rows of unit norm" if source.layer == "head" and has_head else "the encoder's output"
    # The graph contains the change to another normalization, if the encoder expects one.
    description = preprocessing(source, mean=IMAGENET_DEFAULT_MEAN, deviation=IMAGENET_DEFAULT_STD)
    description["input"] = {"name": "images", **description["input"]}
    description["output"] = {"name": source.layer, "shape": ["batch", module(images[:1]).shape[1]], "dtype": "float32", "what": what}
    if centroids is not None:
        description["output"] |= {"what": "the cosine of the nearest centroid of each cluster", "classes": class_names(centroids)}
    n_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    _capture(module, images[:2], folder / "model.onnx", source, external_data=n_bytes > _LARGEST_FILE)
    _describe(folder / "model.onnx", description, source)
    (folder / "preprocessing.json").write_text(json.dumps(description, indent=1))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about initializers that it removes
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return max((difference(run, module, images[:n]) for n in _BATCHES), key=lambda found: found.largest)


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
    except Exception as error:  # the exporter has many exception types
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"torch's ONNX exporter does not support encoder {source.encoder_name!r}: {reason}; use --format timm") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about versions and rewritten operators."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _describe(file: Path, description: dict[str, Any], source: Source) -> None:
    """Add the preprocessing and the origin to the graph's metadata, and remove the exporter's."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False)
    # The exporter records the source lines of each node, with paths of this machine.
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


def notes(source: Source) -> tuple[str, ...]:
    """Return what the user of the file has to know."""
    sizes = ", ".join(map(str, _BATCHES))
    return (f"compared in onnxruntime at batch sizes {sizes}; the preprocessing is in the model's metadata and in preprocessing.json",)


def next_step(path: Path, source: Source) -> str:
    """Return the code that loads the graph."""
    return f"next, in Python: import onnxruntime; session = onnxruntime.InferenceSession({str(path / 'model.onnx')!r})"
