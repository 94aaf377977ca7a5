"""The network. Importing this package registers encoders for small images with timm, under names such as `resnet18_small`."""

from selfcluster.models.encoders import default_cfgs
from selfcluster.models.filters import Sobel
from selfcluster.models.patches import PATCHES

__all__ = ["PATCHES", "Sobel", "default_cfgs"]
