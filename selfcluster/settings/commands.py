"""What each command can be told, as frozen dataclasses. No torch here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar, get_args

import tyro

from selfcluster.settings.config import Config

MethodSettings = TypeVar("MethodSettings")


@dataclass(frozen=True)
class Train(Generic[MethodSettings]):
    """Train an encoder on unlabeled images. Settings that are left out follow from the images; --dry-run prints them."""

    settings: Annotated[Config[MethodSettings], tyro.conf.arg(name="")]
    data: tyro.conf.Positional[str] = ""
    """A folder of images (nested or flat); .tar or .parquet files: one, a folder of them, or a pattern in quotes; a .npy or .npz file; or a set: digits, cifar10, cifar100, stl10, fashion-mnist, imagenette."""
    method: str = ""
    """The algorithm: swav, deepcluster, deepcluster-v2 or sela-v2; by default that of the preset or the config file, or else swav."""
    preset: str = ""
    """A named experiment instead of the recipe."""
    config: str = ""
    """A TOML file of settings, such as the config.toml of another run."""
    out: str = ""
    """Folder of the run; by default runs/<data>-<method>-<n>."""
    resume: bool = False
    """Go on with the run in --out, from its last checkpoint."""
    overwrite: bool = False
    """Replace the run in --out."""
    dry_run: bool = False
    """Print the settings, with an estimate of time and memory, and stop."""


Evaluator = Literal["knn", "linear", "retrieval", "clusters", "label-free", "finetune"]

EVALUATORS: tuple[str, ...] = get_args(Evaluator)
"""What `evaluate` can measure, in the order in which it does."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: neighbors, linear probe, retrieval and clusters against labels, and what needs no labels, beside its floors."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    data: tyro.conf.Positional[str] = ""
    """Images, labeled or not; by default the run's own."""
    test: str = ""
    """Other labeled images to test on; by default the data's own test split."""
    test_share: float = 0.2
    """Share of the images to test on, where there is no test split."""
    labels: str = "auto"
    """auto, none, a CSV file (path, label), or a .npy file."""
    only: tuple[Evaluator, ...] = ()
    """What to measure; by default everything but finetune. Other figures of the same run and images are kept."""
    finetune: bool = False
    """Also fine-tune the encoder on 1 % and 10 % of the labels, three times each."""
    finetune_minutes: float = 1.0
    """Limit of one of these trainings."""
    beside: tuple[str, ...] = ()
    """Encoders to measure in the same way: timm's pretrained networks by name, or folders of other runs."""
    beside_untrained: bool = False
    """Those of timm keep random weights, and nothing is downloaded."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Embed:
    """Write the embedding of every image to a file: parquet, or .npy for the numbers alone."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    data: tyro.conf.Positional[str] = ""
    """Images; by default the run's own."""
    out: str = "embeddings.parquet"
    """A .parquet (path, index, embedding, label) or .npy file. Resumes if interrupted."""
    layer: Literal["features", "head"] = "features"
    """features (the encoder's output) or head (the unit vectors that training compares)."""
    overwrite: bool = False
    """Replace the file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Cluster:
    """Put every image in a cluster, with how typical it is of it; find copies and strays."""

    run: tyro.conf.Positional[str]
    """Folder of the run, which keeps the clusters for assign and report."""
    data: tyro.conf.Positional[str] = ""
    """Images; by default the run's own."""
    k: str = ""
    """A number of clusters; auto for the number of the best silhouette; by default the method's own prototypes."""
    out: str = ""
    """A .parquet or .csv file for the table; by default clusters.parquet in the run's folder."""
    copy_to: str = ""
    """A new folder, which gets one for each cluster with copies of its images, most typical first."""
    links: bool = False
    """Links instead of copies."""
    map: Literal["pca", "umap"] = "pca"
    """How the map of all images is made."""
    seed: int = 0
    """Of the starts."""
    overwrite: bool = False
    """Replace the file in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Assign:
    """Put new images in the clusters that are there, and say which are far from all of them."""

    run: tyro.conf.Positional[str]
    """Folder of the run, after selfcluster cluster."""
    data: tyro.conf.Positional[str]
    """New images."""
    out: str = "assigned.parquet"
    """A .parquet or .csv file for the table."""
    copy_to: str = ""
    """A new folder, which gets one for each cluster with copies of its images, most typical first."""
    links: bool = False
    """Links instead of copies."""
    overwrite: bool = False
    """Replace the file in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Export:
    """Write a run's network for timm, torchvision, ONNX or the Hugging Face hub, compared with the run."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    format: str
    """timm, torchvision, onnx, hub (a folder to upload, with a model card) or whole (encoder, head and prototypes, for selfcluster)."""
    out: str = ""
    """Folder to write; by default export/<format> in the run's folder."""
    layer: Literal["features", "head"] = "features"
    """What an ONNX graph gives: the encoder's features, or the head's embeddings."""
    overwrite: bool = False
    """Replace the export in --out."""


@dataclass(frozen=True)
class Import:
    """Make a run of a checkpoint of the original SwAV or DeepCluster-v2."""

    file: tyro.conf.Positional[str]
    """The checkpoint, as torch.save wrote it."""
    out: str = ""
    """Folder of the run; by default runs/<name>-<method>-<n>."""


@dataclass(frozen=True)
class Report:
    """Write one page about a run that opens from disk: its clusters, a map of the images, curves, and a verdict."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    data: tyro.conf.Positional[str] = ""
    """Images to show; by default the run's own."""
    out: str = ""
    """The file; by default report.html in the run's folder."""
    k: str = ""
    """A number of clusters, or auto; by default the clusters that selfcluster cluster has found, or else the method's own prototypes."""
    points: int = 50_000
    """Images on the page; of more, a sample is shown."""
    seed: int = 0
    """Of new clusters, and of the sample."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Demo:
    """The main job on data that comes with the install: SwAV on scikit-learn's handwritten digits."""

    out: str = ""
    """Folder of the run; by default runs/digits-swav-<n>."""
    seed: int = 0
    """Another number is another run."""
