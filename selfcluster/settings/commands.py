"""The arguments of each command, as frozen dataclasses.

The first paragraph of a docstring is the description, the second an example. The docstrings below the fields are the help texts. A field
whose annotation carries a name, such as "RUN", is a positional argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

Run = Annotated[str, "RUN"]
Images = Annotated[str | None, "IMAGES"]
NClusters = int | Literal["auto"] | None
"""A number of clusters, as many as stand out, or one per prototype."""
Layer = Literal["features", "head"]
"""Output of the encoder, or of the projection head."""
ExportLayer = Literal[Layer, "clusters"]
"""A layer, or a score for each cluster."""

Evaluator = Literal["knn", "linear", "retrieval", "clusters", "label-free", "finetune"]

EVALUATORS: tuple[str, ...] = get_args(Evaluator)
"""What `evaluate` can measure, in the order in which it does."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command prints. Results go to stdout, everything else to stderr."""

    quiet: bool = False
    """Print the results and warnings, no progress."""
    verbose: bool = False
    """Print progress as lines with the time, and more of them."""
    json: bool = False
    """Print the results as JSON."""


@dataclass(frozen=True)
class Train(Output):
    """Train an encoder on unlabeled images; the recipe chooses the settings that are not given.

    selfcluster train photos/ --max-minutes 30
    """

    images: Images = None
    """A folder (nested or flat); .tar or .parquet files: one, a folder of them, or a quoted pattern; a .npy or .npz file; or a named set: digits, cifar10, cifar100, stl10, fashion-mnist, imagenette."""
    method: str | None = None
    """Algorithm: swav, deepcluster, deepcluster-v2 or sela-v2. Default: the method of the preset or config file, or swav."""
    preset: str | None = None
    """Published experiment to use instead of the recipe: swav-imagenet, swav-imagenet-small-batch, deepcluster-imagenet, deepcluster-v2-imagenet or sela-v2-imagenet."""
    augmentation: str | None = None
    """Set of augmentation strengths: photo (color, flip, blur), grey (contrast, flip, blur) or glyph (small rotations, shifts and shears). Default: by the recipe."""
    config: str | None = None
    """TOML file of settings, such as the config.toml of another run."""
    out: str | None = None
    """Run folder. Default: runs/<images>-<method>-<n>."""
    resume: bool | Literal["auto"] = False
    """Resume the run in --out from its last checkpoint; with auto, begin it if it has none yet, for jobs that are restarted with the same command."""
    from_: int | None = None
    """Resume from the checkpoint of this step instead, which becomes the last one."""
    overwrite: bool = False
    """Replace the run in --out."""
    dry_run: bool = False
    """Print the settings with an estimate of time and memory, and exit."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that were given, by name."""


@dataclass(frozen=True)
class Explore(Output):
    """Cluster images by a pretrained encoder, without training: clusters, duplicates, outliers, a map and a page.

    selfcluster explore photos/
    """

    images: Annotated[str, "IMAGES"]
    """A folder of images, or anything else that train takes."""
    encoder: str | None = None
    """A pretrained timm model, a folder of timm's, hf-hub:OWNER/NAME or a run; or patches, which needs no weights. Default: that of --init, or tf_efficientnet_lite0, which comes with the install (trained with ImageNet's labels)."""
    init: str = "pretrained"
    """Weights of the encoder: pretrained (timm's), a timm name with a tag, hf-hub:OWNER/NAME, a run folder, a folder of timm's or a weights file."""
    k: NClusters = None
    """Number of clusters. Default: as many as stand out (auto)."""
    out: str | None = None
    """Run folder. Default: runs/<images>-explore-<n>."""
    overwrite: bool = False
    """Replace the run in --out."""
    labels: str = "auto"
    """Labels, for evaluation and the page only: auto, none, a CSV file (path, label) or a .npy file."""
    pixels: int = 0
    """Side that images are resized to; 0 for 128 on a CPU and 224 on a GPU, but no more than the images have. An encoder of a fixed size or with patches gets the nearest side that it takes."""
    n_codes: int | None = None
    """Entries of the dictionary of --encoder patches; more are better and slower. Default: half as many as images, but at most 2048."""
    seed: int = 0
    """Random seed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Evaluate(Output):
    """Evaluate a run, with labels and without, next to baselines such as raw pixels.

    selfcluster evaluate runs/photos-swav-1 photos/ --labels labels.csv
    """

    run: Run
    """Run folder."""
    images: Images = None
    """Images, labeled or not. Default: those of the run."""
    test: str | None = None
    """Labeled test images. Default: the test split of the images."""
    test_share: float = 0.2
    """Share of the images to test on if there is no test split."""
    labels: str = "auto"
    """auto, none, a CSV file (path, label) or a .npy file."""
    only: tuple[Evaluator, ...] = ()
    """What to measure. Default: everything but finetune. Results of earlier evaluations of the same images are kept."""
    finetune: bool = False
    """Also fine-tune the encoder on 1 % and 10 % of the labels, three times each."""
    finetune_minutes: float = 1.0
    """Time limit of each fine-tuning."""
    beside: tuple[str, ...] = ()
    """Other encoders to measure the same way: names of pretrained timm models, or run folders."""
    beside_untrained: bool = False
    """Use random weights for the timm models in --beside, and download nothing."""
    no_baselines: bool = False
    """Leave out raw pixels, patches, the pretrained and the untrained encoder, which take most of the time; earlier results of them are kept."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Embed(Output):
    """Write the features of every image to a file.

    selfcluster embed runs/photos-swav-1 --out embeddings.parquet
    """

    run: Run
    """Run folder."""
    images: Images = None
    """Images. Default: those of the run."""
    out: str = "embeddings.parquet"
    """A .parquet file (path, index, embedding, label) or a .npy file (embeddings only). Resumes if interrupted."""
    layer: Layer = "features"
    """features (the output of the encoder) or head (the unit vectors that training compares with prototypes)."""
    overwrite: bool = False
    """Replace the file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Cluster(Output):
    """Cluster the images, and find duplicates and outliers.

    selfcluster cluster runs/photos-swav-1 --k 20 --copy-to sorted/
    """

    run: Run
    """Run folder. It keeps the clusters for assign and report."""
    images: Images = None
    """Images. Default: those of the run."""
    k: NClusters = None
    """Number of clusters; auto for as many as stand out. Default: one cluster per prototype if the run began from random weights, else auto."""
    out: str | None = None
    """Also write the table to this .parquet or .csv file."""
    copy_to: str | None = None
    """Copy the images into this new folder, a subfolder for each cluster, the most typical first."""
    links: bool = False
    """With --copy-to: link instead of copy."""
    map: Literal["tsne", "pca", "umap"] = "tsne"
    """Projection for the map of the images."""
    seed: int = 0
    """Random seed."""
    overwrite: bool = False
    """Replace the file in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Apply(Output):
    """Name, merge and split the clusters of a run as a CSV file says, such as the one that the page exports.

    selfcluster apply runs/photos-explore-1 names.csv --copy-to sorted/
    """

    run: Run
    """Run folder, after selfcluster explore or cluster."""
    names: Annotated[str, "NAMES"]
    """CSV file with the columns cluster and name, or path, cluster and name. Clusters of the same name become one; images of a cluster that have different names split it. An empty name is none; what is not listed stays."""
    copy_to: str | None = None
    """Copy the images into this new folder, a subfolder for each cluster, the most typical first."""
    links: bool = False
    """With --copy-to: link instead of copy."""
    out: str | None = None
    """Also write the table to this .parquet or .csv file."""
    overwrite: bool = False
    """Replace the file in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Assign(Output):
    """Assign new images to the clusters of a run, and report outliers.

    selfcluster assign runs/photos-swav-1 new-photos/ --out new.parquet
    """

    run: Run
    """Run folder, after selfcluster cluster."""
    images: Annotated[str, "IMAGES"]
    """New images."""
    out: str = "assigned.parquet"
    """A .parquet or .csv file for the table."""
    copy_to: str | None = None
    """Copy the images into this new folder, a subfolder for each cluster, the most typical first."""
    links: bool = False
    """With --copy-to: link instead of copy."""
    overwrite: bool = False
    """Replace the file in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Report(Output):
    """Write an HTML page about a run: clusters, a map of the images, curves and a verdict.

    selfcluster report runs/photos-swav-1
    """

    run: Run
    """Run folder."""
    images: Images = None
    """Images to show. Default: those of the run."""
    out: str | None = None
    """File to write. Default: report.html in the run folder."""
    k: NClusters = None
    """Number of clusters, or auto. Default: the clusters of selfcluster cluster or explore, or else as cluster chooses it."""
    points: int = 50_000
    """Show at most this many images; a larger set is sampled."""
    seed: int = 0
    """Random seed of new clusters and of the sample."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Export(Output):
    """Export the network of a run to timm, torchvision, ONNX or the Hugging Face hub.

    selfcluster export runs/photos-swav-1 --format timm
    """

    run: Run
    """Run folder."""
    format: str
    """timm, torchvision, onnx, hub (a folder to upload, with a model card) or whole (encoder, head and prototypes, for selfcluster)."""
    out: str | None = None
    """Folder to write. Default: export/<format> in the run folder."""
    layer: ExportLayer = "features"
    """Output: the encoder's features; with onnx also the head's embeddings (head); with onnx or timm also a score for each cluster of selfcluster cluster, whose largest is the cluster of an image (clusters)."""
    overwrite: bool = False
    """Replace the export in --out."""


@dataclass(frozen=True)
class Import(Output):
    """Make a run from a checkpoint of the original SwAV or DeepCluster-v2.

    selfcluster import swav_800ep_pretrain.pth.tar
    """

    file: Annotated[str, "FILE"]
    """The checkpoint, as written by torch.save."""
    out: str | None = None
    """Run folder. Default: runs/<name>-<method>-<n>."""


@dataclass(frozen=True)
class Doctor(Output):
    """Say what is installed and which devices there are, and test it by a small run of each kind, in a minute.

    selfcluster doctor
    """

    quick: bool = False
    """Run nothing."""


@dataclass(frozen=True)
class Completion:
    """Print a script that lets a shell complete commands, flags and values.

    selfcluster completion bash > ~/.local/share/bash-completion/completions/selfcluster
    """

    shell: Annotated[str, "SHELL"]
    """bash, zsh or fish."""


@dataclass(frozen=True)
class Demo:
    """Train SwAV on the handwritten digits that come with scikit-learn, and evaluate it.

    selfcluster demo
    """

    out: str | None = None
    """Run folder. Default: runs/digits-swav-<n>."""
    seed: int = 0
    """Random seed."""
