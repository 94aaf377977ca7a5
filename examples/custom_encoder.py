"""Train a network of your own: register it with timm, and name it as the encoder.

    python examples/custom_encoder.py
    python examples/custom_encoder.py photos/ --out runs/plain --epochs 20

An encoder is any module that turns a batch of images into one vector each and that timm can build by its name. A dozen lines give a module a
name in timm; then it is trained, embedded, exported and loaded again like timm's own. Wherever it is loaded, the lines below must have run, as
those of any network that timm does not contain; an export to ONNX does without them.
"""

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

import selfcluster as sc


class Plain(nn.Module):
    """A plain convolutional network: three stages, each of half the side and twice the width, and the mean over places."""

    def __init__(self, width: int = 32, in_chans: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 4 * width
        widths = [in_chans, width, 2 * width, 4 * width]
        self.stages = nn.Sequential()
        for before, after in pairwise(widths):
            self.stages.extend([nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU()])
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return a vector for each image, or scores of classes if there are any."""
        return self.classifier(self.stages(images).mean(dim=(2, 3)))


# timm looks for this name in the module of a registered network. An empty url says that there are no pretrained weights to download.
default_cfgs = generate_default_cfgs({"plain": {"url": "", "classifier": "classifier", "first_conv": "stages.0"}})


@register_model
def plain(pretrained: bool = False, **settings) -> nn.Module:
    """Build the network; its name is that of this function."""
    return build_model_with_cfg(Plain, "plain", pretrained, **settings)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("images", nargs="?", default="digits", help="anything that selfcluster takes")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", type=Path, help="run folder to keep")
args = parser.parse_args()
out = args.out or Path(tempfile.mkdtemp()) / "run"

run = sc.train(args.images, encoder="plain", epochs=args.epochs, out=out)
features = run.embed()
print(f"{run} made {features.shape[1]} features of {len(features):,} images")

exported = run.export("timm")
print(exported)  # says how far its output differs from the run's
encoder = timm.create_model(f"local-dir:{exported.path}", pretrained=True).eval()
side = encoder.pretrained_cfg["input_size"][-1]
with torch.no_grad():
    print(f"timm loads it again: features of shape {tuple(encoder(torch.zeros(1, 3, side, side)).shape)}")
