"""Every setting a user can make, as frozen dataclasses grouped by purpose.

No torch here, so that `--help` answers at once. Field names are unique over all groups: on the command line each is one flat
flag (`n_crops` is `--n-crops`), in a TOML file each stands under its group (`[crops]`). The defaults are the paper's values for
many photos; for the images at hand the recipe replaces them before anything else is asked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from selfcluster.errors import ConfigError, known


@dataclass(frozen=True)
class DataSettings:
    """Which images, and what to do with the ones that cannot be read."""

    labels: str = "auto"
    """For evaluation only: auto, none, a CSV file (path, label), or a .npy file. auto takes parent folders as classes where every image lies exactly one level deep in at least two folders."""
    test_share: float = 0.0
    """Share of the images kept out of training, for evaluation; in [0, 1)."""
    max_megapixels: float = 100.0
    """An image that declares more is refused before it is decoded."""
    max_broken_share: float = 0.1
    """Training stops when more than this share of the images cannot be read."""


@dataclass(frozen=True)
class CropSettings:
    """Multi-crop: how many crops of an image, how large, of how much of it."""

    n_crops: tuple[int, ...] = (2, 6)
    """Crops of each size; those of the first size get the codes. Paper: 2 and 6."""
    crop_pixels: tuple[int, ...] = (224, 96)
    """Side of each size of crop, in pixels. Paper: 224 and 96."""
    area: tuple[tuple[float, float], ...] = ((0.14, 1.0), (0.05, 0.14))
    """Smallest and largest share of the image's area, for each size. Paper: 0.14 to 1, and 0.05 to 0.14."""
    augmentation: Literal["photo", "grey", "glyph"] = "photo"
    """What else is varied: photo (color, mirror, blur), grey (contrast, mirror, blur), glyph (small turns, shifts and shears; never a mirror)."""


@dataclass(frozen=True)
class AugmentSettings:
    """How strongly each crop is varied; each crop on its own."""

    flip: float = 0.5
    """Probability of a left-right mirror."""
    jitter: float = 0.8
    """Probability of the color jitter."""
    brightness: float = 0.8
    """Factor drawn from [1 - b, 1 + b]."""
    contrast: float = 0.8
    """Factor drawn from [1 - c, 1 + c]."""
    saturation: float = 0.8
    """Factor drawn from [1 - s, 1 + s]."""
    hue: float = 0.2
    """Shift drawn from [-h, h] of the color circle; at most 0.5."""
    grey: float = 0.2
    """Probability of losing all color."""
    blur: float = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, in pixels of the crop."""
    rotate_degrees: float = 0.0
    """Angle drawn from [-r, r]."""
    shift: float = 0.0
    """Shift in x and y drawn from [-s, s] of the crop's side."""
    shear: float = 0.0
    """Horizontal shear drawn from [-s, s]."""
    scale: float = 0.0
    """Enlargement drawn from [1 - s, 1 + s]."""


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


@dataclass(frozen=True)
class ModelSettings:
    """The network."""

    encoder: str = "resnet50"
    """Any timm model, or one of selfcluster's for small images (resnet18_small, ...)."""
    init: str = "random"
    """Starting weights: random, pretrained (timm's for this encoder), a timm name with a tag, a run folder, or a weights file."""
    head_width: int = 2048
    """Width of the head's hidden layer; 0 for a single linear layer. Paper: 2048."""
    embedding_width: int = 128
    """Width of the embeddings that are compared with the prototypes. Paper: 128. DeepCluster has no head: both widths are 0."""
    sobel: bool = False
    """The encoder sees edges (Sobel filters in x and y) in place of colors. DeepCluster's paper: on, for AlexNet and VGG."""


@dataclass(frozen=True)
class SwavSettings:
    """SwAV's own settings."""

    n_prototypes: int = 3000
    """Prototypes; 3 to 10 times the classes expected. Paper: 3000."""
    epsilon: float = 0.05
    """Entropy weight of Sinkhorn-Knopp; smaller gives harder codes. Paper: 0.05."""
    iterations: int = 3
    """Rounds of Sinkhorn-Knopp. Paper: 3."""
    temperature: float = 0.1
    """Of the softmax in the loss. Paper: 0.1."""
    freeze_steps: int = 313
    """Steps before the prototypes begin to learn. Paper: one epoch."""
    queue_length: int = 0
    """Past embeddings that join each batch in Sinkhorn-Knopp; a multiple of the batch, 0 for none. Paper: 3840 at batch 256."""
    queue_from_epoch: int = 15
    """First epoch in which the queue is used. Paper: 15."""
    queue_growth_epochs: float = 1.0
    """Epochs over which the share of the queue in use grows from none to all; 0 for at once, as in the paper."""


@dataclass(frozen=True)
class DeepClusterSettings:
    """DeepCluster's own settings."""

    n_prototypes: int = 10000
    """Clusters, and rows of the top layer; 3 to 10 times the classes expected. Paper: 10000."""
    kmeans_iterations: int = 20
    """Rounds of k-means. Paper: 20."""
    pca_width: int = 256
    """Features are whitened to this width at most. Paper: 256."""
    reassign_epochs: int = 1
    """Epochs from one clustering to the next. Paper: 1."""
    top_lr: float = 0.05
    """Learning rate of the top layer, which begins anew with every clustering; constant, by SGD without momentum. Paper: 0.05."""
    dropout: float = 0.0
    """Before the top layer. Paper: 0.5 twice, in the classifiers of AlexNet and VGG, which timm's ResNets do not have."""


@dataclass(frozen=True)
class DeepClusterV2Settings:
    """DeepCluster-v2's own settings."""

    n_prototypes: tuple[int, ...] = (3000, 3000, 3000)
    """Centroids of each head; 3 to 10 times the classes expected. Paper: 3000 3000 3000."""
    kmeans_iterations: int = 10
    """Rounds of spherical k-means. Paper: 10."""
    temperature: float = 0.1
    """Of the softmax in the loss. Paper: 0.1."""


@dataclass(frozen=True)
class SelaV2Settings:
    """SeLa-v2's own settings."""

    n_prototypes: tuple[int, ...] = (3000, 3000, 3000)
    """Prototypes of each head; 3 to 10 times the classes expected. Paper: 3000 3000 3000."""
    epsilon: float = 0.05
    """Entropy weight of Sinkhorn-Knopp over the data set; smaller gives harder codes. SwAV's: 0.05."""
    mass_tolerance: float = 0.01
    """Sinkhorn-Knopp goes on until every prototype's mass is within this share of what is its due."""
    max_iterations: int = 1000
    """Rounds of Sinkhorn-Knopp at most; the run says so where they do not suffice."""
    temperature: float = 0.1
    """Of the softmax in the loss. SwAV's: 0.1."""


@dataclass(frozen=True)
class OptimSettings:
    """How the network is trained."""

    epochs: int = 100
    """Passes over the images."""
    max_steps: int = 0
    """Stop, with the schedule fitted, after this many steps; 0 for the steps that the epochs give."""
    max_minutes: float = 0.0
    """Fit the schedule to this time on this machine; 0 for no limit. What it came to is recorded as max_steps."""
    batch: int = 256
    """Images in a step, over all ranks; auto for the largest that fits the memory."""
    accumulate: int = 1
    """Parts in which a batch goes through the network, for batches that do not fit: codes are made over all of it, batch norm is over a part."""
    optimizer: Literal["lars", "sgd", "adamw"] = "lars"
    """Paper: lars."""
    lr: float = 0.6
    """Learning rate after the warm-up. Paper: 4.8 at batch 4096, 0.6 at batch 256, with LARS."""
    final_lr: float = 0.0006
    """Learning rate at the end of the cosine; the same as lr for a constant one. Paper: a thousandth of lr; DeepCluster: lr."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up. Paper: 10 at batch 4096, none at 256."""
    warmup_lr: float = 0.3
    """Learning rate of the first step, where there is a warm-up. Paper: 0.3."""
    momentum: float = 0.9
    """Of LARS and SGD."""
    weight_decay: float = 1e-6
    """Of every parameter. Paper: 1e-6."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of the whole network; 0 for no limit. The paper has none."""


@dataclass(frozen=True)
class HealthSettings:
    """When training counts as dead."""

    on_collapse: Literal["stop", "warn"] = "stop"
    """Stop with status 3, or only say so."""
    collapse_steps: int = 200
    """Steps over which the signs are averaged."""
    collapse_entropy: float = 0.98
    """Collapsed when the mean code entropy is above this share of ln K ..."""
    collapse_embedding: float = 0.95
    """... and the squared length of the mean embedding is above this."""


@dataclass(frozen=True)
class RunSettings:
    """The machine's side of a run."""

    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the encoder and head; normalization, prototypes, codes and losses are always float32."""
    channels_last: bool = True
    """Memory layout of the network and its input."""
    recompute: bool = False
    """The encoder's activations are computed again for the backward pass instead of kept: less memory, a third more time."""
    compile: bool = False
    """The encoder is compiled by torch.compile: a minute or more at the start, less at the next, for faster steps. On a CPU this needs a C++ compiler."""
    workers: int = -1
    """Processes that decode and cut crops while the network trains; 0 for threads between the steps, -1 for what suits the device."""
    threads: int = 0
    """Threads of this process, for the network on a CPU and for decoding; 0 for one a core of this rank's share."""
    cache_gib: float = 4.0
    """Decoded images are kept from one epoch to the next where all of them fit this, in GiB, in a temporary file; 0 for never."""
    features_gib: float = 4.0
    """Features of the data set that a process keeps in memory, in GiB; more of them go to a file in the run folder meanwhile."""
    keep_features: bool = True
    """Features of images stay in the run folder, so that cluster, report, evaluate, embed and assign compute those of the same images once."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one is written at the end as well."""
    log_seconds: float = 5.0
    """Time between log lines where there is no terminal."""
    log_steps: int = 10
    """Steps between rows of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder (extra: tensorboard)."""
    wandb: str = ""
    """Name of a Weights & Biases project to log to (extra: wandb)."""


MethodSettings = TypeVar("MethodSettings")


@dataclass(frozen=True)
class Config(Generic[MethodSettings]):
    """All settings of a run of one method."""

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
        """Name of the method that these settings are for."""
        return next(name for name, settings in METHOD_SETTINGS.items() if isinstance(self.objective, settings))

    @property
    def n_prototypes(self) -> tuple[int, ...]:
        """Prototypes of each head, for methods of one head and of several."""
        n = getattr(self.objective, "n_prototypes")  # noqa: B009 - every method's settings have it, their type does not say so
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
        "log_seconds",
        "log_steps",
        "tensorboard",
        "wandb",
        "on_collapse",
    ]
)
"""Settings that a resumed run may change; any other would make it another run."""


def default_config(method: str) -> Config[Any]:
    """The paper's settings of a method.

    Raises:
        ConfigError: an unknown method.
    """
    objective = METHOD_SETTINGS[known(method, METHOD_SETTINGS, "method")]()
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
    """Each group of settings by the name it has in a TOML file; the method's own group carries the method's name."""
    return {config.method if f.name == "objective" else f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def flatten(config: Config[Any]) -> dict[str, Any]:
    """Every setting by its flat name."""
    return {f.name: getattr(group, f.name) for group in groups(config).values() for f in dataclasses.fields(group)}


def replace(config: Config[Any], values: dict[str, Any]) -> Config[Any]:
    """The config with these settings, given by their flat names; lists become tuples and whole numbers fractions where wanted.

    Raises:
        ConfigError: a name that is no setting of this method (the nearest right one is named), or a value of the wrong type.
    """
    names = flatten(config)
    for name in values:
        known_setting(name, names, "setting", config.method)
    changed = {}
    for f in dataclasses.fields(config):
        group = getattr(config, f.name)
        types = get_type_hints(type(group))
        own = {g.name: _typed(g.name, values[g.name], types[g.name]) for g in dataclasses.fields(group) if g.name in values}
        changed[f.name] = dataclasses.replace(group, **own)
    return Config(**changed)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value as this kind: from TOML and from Python, where a tuple may come as a list and 1.0 as 1."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return known(value, parts, name)
    if origin is tuple and parts == (int, ...) and type(value) is int:
        return (value,)
    if origin is tuple and isinstance(value, list | tuple):
        any_length = parts[-1] is Ellipsis
        if any_length or len(value) == len(parts):
            return tuple(
                _typed(name, part, parts[0] if any_length else kind)
                for part, kind in zip(value, parts if not any_length else value, strict=True)
            )
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(kind, type) and origin is None and type(value) is kind:
        return value
    raise ConfigError(f"{name} {value!r} must be {_KINDS.get(kind, str(kind).replace('tuple', 'list').replace(', ...', ''))}")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def known_setting(name: str, names: Any, what: str, method: str) -> str:
    """The name, if it is one of the names; `known`, for the settings of a method.

    Raises:
        ConfigError: it is not; the message holds the methods that have it, or the nearest right one.
    """
    having = [other for other, settings in METHOD_SETTINGS.items() if any(f.name == name for f in dataclasses.fields(settings))]
    if name not in names and having:
        raise ConfigError(f"{what} {name!r} belongs to {' and '.join(having)}, not to {method}; leave it out, or choose another method")
    return known(name, names, what)
