"""Every training setting, as frozen dataclasses grouped by purpose.

Field names are unique over all groups: each is a flag on the command line (`n_crops` is `--n-crops`) and a key of its group in a TOML
file (`[crops]`). The docstrings below the fields are the help texts. Defaults are the paper's values for ImageNet; the recipe replaces
them by values for the images at hand. This module does not import torch, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, get_type_hints, runtime_checkable

from selfcluster.errors import ConfigError, known
from selfcluster.settings.values import check_value

BUNDLED = "tf_efficientnet_lite0"
"""timm's name of the encoder whose weights come with the install: EfficientNet-Lite0, trained on ImageNet with labels; Apache-2.0."""

Interpolation = Literal["bilinear", "bicubic"]
Value = TypeVar("Value")


def _setting(default: Value, *, paper: str) -> Value:
    """Return a field that also has the paper's value, which the help shows after the docstring."""
    return field(default=default, metadata={"paper": paper})


@dataclass(frozen=True)
class DataSettings:
    """Data settings."""

    labels: str = "auto"
    """Labels, for evaluation only: auto, none, a CSV file (path, label) or a .npy file. auto uses parent folders as classes if every image lies exactly one level deep in at least two folders."""
    test_share: float = 0.0
    """Share of the images held out for evaluation, in [0, 1)."""
    max_megapixels: float = 100.0
    """Skip images that declare more pixels than this, before decoding them."""
    max_broken_share: float = 0.1
    """Stop if more than this share of the images cannot be read."""


@dataclass(frozen=True)
class CropSettings:
    """Multi-crop settings."""

    n_crops: tuple[int, ...] = _setting((2, 6), paper="2 6; DeepCluster: 1")
    """Number of crops of each size; codes are computed from those of the first size."""
    crop_pixels: tuple[int, ...] = _setting((224, 96), paper="224 96; DeepCluster: 224")
    """Side of the crops of each size, in pixels."""
    area: tuple[tuple[float, float], ...] = _setting(((0.14, 1.0), (0.05, 0.14)), paper="0.14 1 0.05 0.14; DeepCluster: 0.08 1")
    """Smallest and largest share of the image's area, for each size."""
    repeat_after: int = _setting(0, paper="never")
    """Epochs after which the same crops come again, so that frozen stages run only once for each; 0 for never."""


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation strengths, drawn for each crop."""

    flip: float = _setting(0.5, paper="0.5")
    """Probability of a horizontal flip."""
    jitter: float = _setting(0.8, paper="0.8; DeepCluster: none")
    """Probability of color jitter."""
    brightness: float = _setting(0.8, paper="0.8")
    """Draw the brightness factor from [1 - b, 1 + b]."""
    contrast: float = _setting(0.8, paper="0.8")
    """Draw the contrast factor from [1 - c, 1 + c]."""
    saturation: float = _setting(0.8, paper="0.8")
    """Draw the saturation factor from [1 - s, 1 + s]."""
    hue: float = _setting(0.2, paper="0.2")
    """Draw the hue shift from [-h, h] of the color circle; at most 0.5."""
    grey: float = _setting(0.2, paper="0.2; DeepCluster: none")
    """Probability of conversion to grayscale."""
    blur: float = _setting(0.5, paper="0.5; DeepCluster: none")
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = _setting((0.1, 2.0), paper="0.1 2")
    """Range of the blur's standard deviation, in pixels of the crop."""
    rotate_degrees: float = _setting(0.0, paper="none")
    """Draw the rotation from [-r, r] degrees."""
    shift: float = _setting(0.0, paper="none")
    """Draw the shift in x and y from [-s, s] of the crop's side."""
    shear: float = _setting(0.0, paper="none")
    """Draw the horizontal shear from [-s, s]."""
    scale: float = _setting(0.0, paper="none")
    """Draw the scale from [1 - s, 1 + s]."""


AUGMENTATIONS = {
    "photo": AugmentSettings(),
    "grey": AugmentSettings(saturation=0.0, hue=0.0, grey=0.0),
    "glyph": AugmentSettings(
        flip=0.0,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
        blur=0.0,
        rotate_degrees=12.0,
        shift=0.08,
        shear=0.2,
    ),
}
"""Named sets of strengths. photo: the paper's (color, flip, blur); grey: without color; glyph: small rotations, shifts and shears, never a flip."""


@dataclass(frozen=True)
class ModelSettings:
    """Model settings."""

    encoder: str = _setting("resnet50", paper="resnet50; DeepCluster: AlexNet and VGG16")
    """A timm model, or one of selfcluster's for small images (resnet18_small, ...)."""
    encoder_arguments: str = ""
    """Further arguments of the timm model, as JSON; those of the weights in a folder of timm's."""
    init: str = _setting("random", paper="random")
    """Initial weights: random, pretrained (timm's for this encoder), a timm name with a tag, hf-hub:OWNER/NAME, a run folder, a folder of timm's (config.json, model.safetensors) or a weights file."""
    freeze: str = _setting("none", paper="none")
    """Stages of the encoder that keep their initial weights: none, all, but-last (all but the last stage), or how many after the stem. Batch norm keeps its statistics then."""
    head_width: int = _setting(2048, paper="2048; DeepCluster: no head")
    """Width of the head's hidden layer; 0 for a single linear layer."""
    embedding_width: int = _setting(128, paper="128; DeepCluster: no head")
    """Width of the embeddings; 0 for no head, but centered features. DeepCluster has no head: both widths are 0."""
    sobel: bool = _setting(False, paper="off; DeepCluster: on")
    """Feed the encoder Sobel edges instead of colors."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the pixels in [0, 1] that images are normalized by; that of the weights for pretrained ones, or else ImageNet's."""
    pixel_deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that images are normalized by; that of the weights for pretrained ones, or else ImageNet's."""
    interpolation: Interpolation = "bilinear"
    """How whole images are resized outside training; that of the weights for pretrained ones. Random crops are always bilinear."""


@dataclass(frozen=True)
class SwavSettings:
    """SwAV settings."""

    n_prototypes: int = _setting(3000, paper="3000")
    """Number of prototypes; 3 to 10 times the expected number of classes."""
    epsilon: float = _setting(0.05, paper="0.05")
    """Entropy weight of Sinkhorn-Knopp; smaller values give harder codes."""
    iterations: int = _setting(3, paper="3")
    """Sinkhorn-Knopp iterations."""
    temperature: float = _setting(0.1, paper="0.1")
    """Softmax temperature of the loss."""
    freeze_steps: int = _setting(313, paper="one epoch")
    """Steps before the prototypes are trained."""
    queue_length: int = _setting(0, paper="3840 at batch 256, none at 4096")
    """Past embeddings that join each batch in Sinkhorn-Knopp; a multiple of the batch size, 0 for none."""
    queue_from_epoch: int = _setting(15, paper="15")
    """First epoch in which the queue is used."""


@dataclass(frozen=True)
class DeepClusterSettings:
    """DeepCluster settings."""

    n_prototypes: int = _setting(10000, paper="10000")
    """Number of clusters; 3 to 10 times the expected number of classes."""
    kmeans_iterations: int = _setting(20, paper="20")
    """K-means iterations."""
    pca_width: int = _setting(256, paper="256")
    """Largest number of PCA components that features are whitened to."""
    reassign_epochs: int = _setting(1, paper="1")
    """Epochs between clusterings."""
    top_lr: float = _setting(0.05, paper="0.05")
    """Constant learning rate of the top layer, which is reset at every clustering (SGD without momentum)."""
    dropout: float = _setting(0.0, paper="0.5 twice, in the classifiers of AlexNet and VGG")
    """Dropout before the top layer."""
    first_labels: Literal["network", "patches"] = _setting("network", paper="network")
    """First pseudo-labels: clusters of the initial network's features, or of patches, which need no network."""
    first_label_epochs: int = 1
    """Epochs that are trained on the first pseudo-labels, if they are not those of the network; 0 for all."""


@dataclass(frozen=True)
class DeepClusterV2Settings:
    """DeepCluster-v2 settings."""

    n_prototypes: tuple[int, ...] = _setting((3000, 3000, 3000), paper="3000 3000 3000")
    """Number of centroids of each head; 3 to 10 times the expected number of classes."""
    kmeans_iterations: int = _setting(10, paper="10")
    """Spherical k-means iterations."""
    temperature: float = _setting(0.1, paper="0.1")
    """Softmax temperature of the loss."""
    first_labels: Literal["network", "patches", "neighbors"] = _setting("network", paper="network")
    """First pseudo-labels: clusters of the network's output (network), of patches, which need no network (patches), or of the graph of nearest neighbors by the encoder's features, for a pretrained one (neighbors)."""
    first_label_epochs: int = 1
    """Epochs that are trained on the first pseudo-labels, if they are not those of the network; 0 for all."""


@dataclass(frozen=True)
class SelaV2Settings:
    """SeLa-v2 settings."""

    n_prototypes: tuple[int, ...] = _setting((3000, 3000, 3000), paper="3000 3000 3000")
    """Number of prototypes of each head; 3 to 10 times the expected number of classes."""
    epsilon: float = _setting(0.05, paper="not published; SwAV: 0.05")
    """Entropy weight of Sinkhorn-Knopp over the data set; smaller values give harder codes."""
    temperature: float = _setting(0.1, paper="not published; SwAV: 0.1")
    """Softmax temperature of the loss."""
    first_labels: Literal["network", "patches", "neighbors"] = _setting("network", paper="network")
    """First pseudo-labels: clusters of the network's output (network), of patches, which need no network (patches), or of the graph of nearest neighbors by the encoder's features, for a pretrained one (neighbors)."""
    first_label_epochs: int = 1
    """Epochs that are trained on the first pseudo-labels, if they are not those of the network; 0 for all."""


@dataclass(frozen=True)
class ExploreSettings:
    """Settings of a run that was explored, not trained."""

    n_prototypes: int = 2
    """Number of clusters that were found."""


@dataclass(frozen=True)
class OptimSettings:
    """Optimization settings."""

    epochs: int = _setting(100, paper="100 to 800; DeepCluster: 500")
    """Number of passes over the images."""
    max_steps: int = 0
    """Number of steps, with the schedule fitted to them; 0 to follow --epochs."""
    max_minutes: float = 0.0
    """Fit the schedule to this time on this machine, as max_steps, and keep to it while the pace changes; 0 for no limit."""
    extended_at: int = 0
    """Step at which a finished run was made longer, where its schedule of the learning rate begins again; set by --resume with --epochs, --max-steps or --max-minutes."""
    batch: int = _setting(256, paper="4096, or 256; DeepCluster: 256")
    """Images per step, over all ranks; auto for the largest batch that fits in memory."""
    accumulate: int = 1
    """Split each batch into this many forward passes, for batches that do not fit in memory. Codes are computed over the whole batch, batch norm over each part."""
    optimizer: Literal["lars", "sgd", "adamw"] = _setting("lars", paper="lars; DeepCluster: sgd")
    """Optimizer."""
    lr: float = _setting(0.6, paper="4.8 at batch 4096, 0.6 at batch 256, with LARS; DeepCluster: 0.05")
    """Learning rate after warm-up."""
    final_lr: float = _setting(0.0006, paper="lr / 1000; DeepCluster: lr")
    """Learning rate at the end of the cosine schedule; equal to lr for a constant one."""
    warmup_epochs: float = _setting(0.0, paper="10 at batch 4096, 0 at 256")
    """Epochs of linear warm-up, from lr / 16 (the paper's ratio)."""
    momentum: float = _setting(0.9, paper="0.9")
    """Momentum of LARS and SGD."""
    encoder_lr_ratio: float = _setting(1.0, paper="1")
    """Learning rate of the encoder, relative to that of head and prototypes; below 1 to adapt pretrained weights."""
    weight_decay: float = _setting(1e-6, paper="1e-6; DeepCluster: 1e-5")
    """Weight decay of every parameter."""
    clip_norm: float = _setting(0.0, paper="none")
    """Clip the norm of the whole gradient to this; 0 for no limit."""


@dataclass(frozen=True)
class HealthSettings:
    """Collapse detection settings."""

    on_collapse: Literal["stop", "warn"] = "stop"
    """Stop with exit status 3, or only warn."""


@dataclass(frozen=True)
class RunSettings:
    """Machine and logging settings."""

    seed: int = 0
    """Random seed."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Precision of encoder and head; prototypes, codes and losses are always float32."""
    recompute: bool = False
    """Recompute the encoder's activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the encoder with torch.compile: slower start, faster steps. Needs a C++ compiler on a CPU."""
    workers: int = -1
    """Worker processes that decode and crop images; 0 for threads of this process, -1 to choose by device."""
    threads: int = 0
    """Threads of this process, for decoding and for the network on a CPU; 0 for this rank's share of the cores."""
    cache_gib: float = 4.0
    """Cache decoded images in a temporary file if all of them fit into this many GiB; 0 for never."""
    features_gib: float = 4.0
    """Keep up to this many GiB of features in memory per process, and larger ones in a file in the run folder."""
    keep_features: bool = True
    """Keep features in the run folder, so that cluster, report, evaluate, embed and assign do not compute them again."""
    rank_timeout: float = 60.0
    """With several ranks: seconds without a sign of life after which a rank counts as lost, and the others stop."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is also written at the end."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, at least 1: the last one, and those before it, in case it is damaged."""
    log_steps: int = 10
    """Steps between rows of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder (needs the extra tensorboard)."""
    wandb: str = ""
    """Weights & Biases project to log to (needs the extra wandb)."""


@runtime_checkable
class SettingsOfMethod(Protocol):
    """What the settings of every method have."""

    @property
    def n_prototypes(self) -> int | tuple[int, ...]:
        """Number of prototypes, or that of each head."""
        ...


MethodSettings = TypeVar("MethodSettings", bound=SettingsOfMethod)


@dataclass(frozen=True)
class Config(Generic[MethodSettings]):
    """All settings of a run with one method."""

    objective: MethodSettings
    data: DataSettings = field(default_factory=DataSettings)
    crops: CropSettings = field(default_factory=CropSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    run: RunSettings = field(default_factory=RunSettings)

    @property
    def method(self) -> str:
        """Name of the method."""
        return next(name for name, settings in all_settings().items() if isinstance(self.objective, settings))

    @property
    def n_prototypes(self) -> tuple[int, ...]:
        """Number of prototypes of each head."""
        n = self.objective.n_prototypes
        return n if isinstance(n, tuple) else (n,)


METHOD_SETTINGS: dict[str, type] = {
    "swav": SwavSettings,
    "deepcluster": DeepClusterSettings,
    "deepcluster-v2": DeepClusterV2Settings,
    "sela-v2": SelaV2Settings,
}

DEFAULT_METHOD = "swav"

CHANGEABLE_ON_RESUME = frozenset(
    [
        "device",
        "workers",
        "threads",
        "recompute",
        "compile",
        "features_gib",
        "keep_features",
        "checkpoint_minutes",
        "keep_checkpoints",
        "log_steps",
        "tensorboard",
        "wandb",
        "on_collapse",
        "rank_timeout",
    ]
)
"""Settings that may change when a run is resumed; any other change would make it another run."""


LENGTHS = ("epochs", "max_steps", "max_minutes")
"""Settings that make a finished run longer when it is resumed."""


def keeps_first_labels(settings: DeepClusterSettings | DeepClusterV2Settings | SelaV2Settings, epoch: int) -> bool:
    """Return whether an epoch is trained on the first pseudo-labels, which are not those of the network."""
    return settings.first_labels != "network" and (epoch < settings.first_label_epochs or not settings.first_label_epochs)


def renews_labels(settings: DeepClusterV2Settings | SelaV2Settings) -> bool:
    """Return whether pseudo-labels are ever made from the network's output."""
    return settings.first_labels == "network" or settings.first_label_epochs > 0


def all_settings() -> dict[str, type]:
    """Return the settings of every method by its name, and those of runs without training."""
    return {**METHOD_SETTINGS, "explore": ExploreSettings}


def default_config(method: str) -> Config[Any]:
    """Return the paper's settings of a method.

    Raises:
        ConfigError: an unknown method.
    """
    objective = all_settings()[known(method, all_settings(), "method")]()
    if isinstance(objective, ExploreSettings):
        crops = CropSettings(n_crops=(1,), crop_pixels=(128,), area=((1.0, 1.0),))
        return Config(objective, crops=crops, model=ModelSettings(encoder=BUNDLED, init="pretrained", head_width=0))
    if not isinstance(objective, DeepClusterSettings):
        return Config(objective)
    return Config(
        objective,
        crops=CropSettings(n_crops=(1,), crop_pixels=(224,), area=((0.08, 1.0),)),
        augment=AugmentSettings(jitter=0.0, grey=0.0, blur=0.0),
        model=ModelSettings(head_width=0, embedding_width=0),
        optim=OptimSettings(epochs=500, optimizer="sgd", lr=0.05, final_lr=0.05, weight_decay=1e-5),
    )


def groups(config: Config[Any]) -> dict[str, Any]:
    """Return each group of settings by its name in a TOML file; the group of the method has the method's name."""
    return {config.method if f.name == "objective" else f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def flatten(config: Config[Any]) -> dict[str, Any]:
    """Return every setting by its flat name."""
    return {f.name: getattr(group, f.name) for group in groups(config).values() for f in dataclasses.fields(group)}


def replace(config: Config[Any], values: Mapping[str, Any]) -> Config[Any]:
    """Return the config with these settings changed; values may come from TOML or Python (a list for a tuple, 1 for 1.0).

    Raises:
        ConfigError: a name that is not a setting of this method, or a value of the wrong type.
    """
    names = flatten(config)
    for name in values:
        check_method_has(name, config.method, f"setting {name!r}")
        known(name, names, "setting")
    changed = {}
    for f in dataclasses.fields(config):
        group = getattr(config, f.name)
        types = get_type_hints(type(group))
        own = {g.name: check_value(g.name, values[g.name], types[g.name]) for g in dataclasses.fields(group) if g.name in values}
        changed[f.name] = dataclasses.replace(group, **own)
    return Config(**changed)


def check_method_has(name: str, method: str, called: str) -> None:
    """Check that a setting does not belong to other methods alone.

    Args:
        name: of the setting.
        method: the method that it was given for.
        called: how the message calls the setting.
    Raises:
        ConfigError: it does; the message lists them.
    """
    having = [other for other, settings in all_settings().items() if any(f.name == name for f in dataclasses.fields(settings))]
    if having and method not in having:
        raise ConfigError(f"{called} belongs to {' and '.join(having)}, not to {method}; leave it out, or choose another method")
