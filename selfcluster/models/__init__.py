"""The network. Importing this package registers encoders for small images with timm, under names such as `resnet18_small`."""

from selfcluster.models.encoders import default_cfgs
from selfcluster.models.model import Sobel

__all__ = ["Sobel", "default_cfgs"]
