"""Train any network in a loop of your own, with selfcluster's crops, codes and loss.

    python examples/own_loop.py
    python examples/own_loop.py --encoder resnet18 --epochs 5      # any timm model

The loop is plain torch, to be changed at will: `sc.MultiCrop`, `sc.sinkhorn` and `sc.swapped_loss` take and return tensors. The images are
scikit-learn's digits. In the end, `sc.kmeans` clusters them by their pixels and by their features, and both are compared with the classes.
"""

import argparse
import math

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn.functional import interpolate, normalize

import selfcluster as sc
import selfcluster.models  # registers networks for small images with timm

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--encoder", default="resnet10_small_quarter_s2")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--images", type=int, default=1797, help="use this many of the digits")
args = parser.parse_args()
torch.manual_seed(0)

digits = load_digits()
labels = digits.target[: args.images]
pixels = torch.tensor(digits.images[: args.images] * (255 / 16), dtype=torch.float32)[:, None]
images = interpolate(pixels, size=32, mode="bicubic").round().clamp(0, 255).byte()  # (N, 1, 32, 32)

n_prototypes, batch = 30, 64
multi_crop = sc.MultiCrop(n_crops=(2, 4), crop_pixels=(24, 16), area=((0.6, 1.0), (0.35, 0.6)), augmentation="glyph")
encoder = timm.create_model(args.encoder, num_classes=0)
n_features = encoder(torch.zeros(2, 3, 32, 32)).shape[1]
head = nn.Sequential(nn.Linear(n_features, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
prototypes = nn.Parameter(normalize(torch.randn(n_prototypes, 128)))  # unit rows
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters(), prototypes], lr=0.003, weight_decay=0.01)
steps_per_epoch = len(images) // batch
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * steps_per_epoch)

for epoch in range(args.epochs):
    total = 0.0
    for index in torch.randperm(len(images))[: steps_per_epoch * batch].view(-1, batch):
        # The crops of an image depend on seed, epoch and index alone: not on the order of the images, nor on torch's generator.
        crops = multi_crop(images[index], index, seed=0, epoch=epoch)  # 2 of (batch, 3, 24, 24), 4 of (batch, 3, 16, 16)
        features = torch.cat([encoder(torch.cat(crops[:2])), encoder(torch.cat(crops[2:]))])
        scores = (normalize(head(features)) @ prototypes.T).view(len(crops), batch, n_prototypes)  # cosines
        codes = torch.stack([sc.sinkhorn(of_crop.detach(), epsilon=0.02) for of_crop in scores[:2]])  # (2, batch, n_prototypes)
        loss = sc.swapped_loss(scores, codes, temperature=0.1)

        optimizer.zero_grad()
        loss.backward()
        if epoch == 0:
            prototypes.grad = None  # frozen at first, as in the paper
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            prototypes.copy_(normalize(prototypes))
        total += loss.item()
    print(f"epoch {epoch + 1}: loss {total / steps_per_epoch:.3f} (ln K is {math.log(n_prototypes):.3f})")

encoder.eval()
# MultiCrop normalizes crops by ImageNet's mean and standard deviation, so whole images are normalized alike.
mean, deviation = (torch.tensor(value)[:, None, None] for value in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
with torch.no_grad():
    features = torch.cat([encoder((part / 255 - mean) / deviation) for part in images.split(256)])

for name, points in {"pixels": pixels.flatten(1), "features": features}.items():
    clusters = sc.kmeans(points - points.mean(dim=0), 10, spherical=True, n_init=10).assignments
    print(f"10 clusters of {name}: matched accuracy {sc.matched_accuracy(labels, clusters):.1%}, NMI {sc.nmi(labels, clusters):.3f}")
