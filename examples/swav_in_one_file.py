"""SwAV in one file of plain torch, for readers of the paper (arXiv 2006.09882), whose symbols it keeps.

    python examples/swav_in_one_file.py

SwAV learns features of images without labels. From each image it takes two large crops and V small ones. A large crop gets a code q, a soft
assignment to K prototypes, and the network learns to predict this code from the other crops of the same image. Images are never compared with
each other. What keeps them from all getting the same code is how codes are computed: the images of a batch have to use all prototypes equally.

The images are four fifths of scikit-learn's digits. For each of the remaining ones, the 20 nearest of these vote on its class: by raw pixels, by
the features of the untrained network, and by those of the trained one. Labels are used for these votes only.
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

# ---------------------------------------------------------------------------------------------------------------- settings
# In brackets, what the paper uses for ImageNet with batches of 256 images.

B = 64  # images in a batch [256]
K = 30  # prototypes [3000]
D = 32  # width of z [128]
V = 4  # small crops [6]
large_side, large_area = 16, (0.5, 1.0)  # pixels, and share of the image's area [224, 0.14 to 1]
small_side, small_area = 12, (0.25, 0.5)  # [96, 0.05 to 0.14]
tau = 0.1  # temperature of predictions [0.1]
epsilon = 0.02  # softness of codes [0.05]: few prototypes need harder codes
queue_length, queue_from_epoch = 256, 3  # earlier images that take part in the balance [3840, 15]
freeze_epochs = 1  # in which prototypes stay as they are [1]
max_lr, min_lr = 2.0, 0.002  # [0.6, 0.0006]: a short training needs a high rate
momentum, weight_decay, trust = 0.9, 1e-6, 0.001  # of LARS [the same]

# -------------------------------------------------------------------------------------------------------------------- data

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # (1797, 1, 8, 8), from 0 to 1
y = torch.tensor(digits.target)
is_test = torch.arange(len(x)) % 5 == 0
x_train, y_train, x_test, y_test = x[~is_test], y[~is_test], x[is_test], y[is_test]


def crop(x, side, area):  # (B, 1, 8, 8) -> (B, 1, side, side)
    """Cut a random part out of each image and resize it. Mirrored digits are no digits, so parts are turned and shaded instead."""

    def uniform(low, high):  # (B,)
        return torch.empty(len(x)).uniform_(low, high)

    share, ratio, angle = uniform(*area), uniform(math.log(3 / 4), math.log(4 / 3)).exp(), uniform(-0.3, 0.3)
    w, h = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)  # in widths and heights of the image
    center_x, center_y = (1 - w) * uniform(-1, 1), (1 - h) * uniform(-1, 1)  # in half widths and heights, from the middle
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([w * cos, -h * sin, center_x, w * sin, h * cos, center_y], dim=1).view(-1, 2, 3)
    parts = F.grid_sample(x, F.affine_grid(theta, [len(x), 1, side, side], align_corners=False), align_corners=False)
    return parts * uniform(0.5, 1.5).view(-1, 1, 1, 1) + uniform(-0.1, 0.1).view(-1, 1, 1, 1)


# ------------------------------------------------------------------------------------------------------------------- model


class Model(nn.Module):
    """The network f with a projection head, and the prototypes C."""

    def __init__(self):
        super().__init__()

        def layer(channels, width, stride):
            return nn.Sequential(nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

        layers = layer(1, 32, 1), layer(32, 64, 2), layer(64, 64, 1), layer(64, 128, 2), layer(128, 128, 1)
        self.f = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, D))
        self.C = nn.Linear(D, K, bias=False)  # weight (K, D): each row is a prototype c_k
        self.normalize_prototypes()

    def forward(self, large, small):  # (2 * B, 1, 16, 16), (V * B, 1, 12, 12) -> (V + 2, B, D), (V + 2, B, K)
        features = torch.cat([self.f(large), self.f(small)])  # crops of one size pass through the network together
        z = F.normalize(self.head(features), dim=1)
        return z.view(V + 2, -1, D), self.C(z).view(V + 2, -1, K)  # scores z^T c_k, which are cosines

    @torch.no_grad()
    def normalize_prototypes(self):
        self.C.weight.copy_(F.normalize(self.C.weight, dim=1))


class LARS(torch.optim.Optimizer):
    """SGD with momentum in which the step of each tensor is proportional to the norm of the tensor."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in [p for p in group["params"] if p.grad is not None]:
                p_norm, g_norm = p.norm(), p.grad.norm()
                scale = trust * p_norm / (g_norm + weight_decay * p_norm + 1e-8) if p_norm > 0 and g_norm > 0 else 1.0
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.mul_(momentum).add_((p.grad + weight_decay * p) * scale)
                p.sub_(group["lr"] * m)


# --------------------------------------------------------------------------------------------------------------- algorithm


@torch.no_grad()
def sinkhorn_knopp(scores):  # (N, K) -> (N, K)
    """Compute codes that follow the scores and use all prototypes equally: equations 3 to 5."""
    N, K = scores.shape
    Q = torch.exp(scores / epsilon).T  # (K, N)
    for _ in range(3):
        Q /= K * Q.sum(dim=1, keepdim=True)  # a prototype has 1/K of the mass,
        Q /= N * Q.sum(dim=0, keepdim=True)  # and an image 1/N
    return N * Q.T  # each code sums to 1


def swapped_loss(scores, q):  # (V + 2, B, K), (2, B, K) -> ()
    """Predict the code of each large crop from every other crop of the same image: equations 1, 2 and 6."""
    log_p = F.log_softmax(scores / tau, dim=2)
    pairs = [(s, v) for s in range(2) for v in range(V + 2) if v != s]
    return sum(-(q[s] * log_p[v]).sum(dim=1).mean() for s, v in pairs) / len(pairs)


# -------------------------------------------------------------------------------------------------------------- evaluation


def knn(train, test):  # (n, d), (m, d)
    """Return the share of test images whose class is the most frequent among the 20 training images of largest cosine."""
    train, test = (F.normalize(rows - train.mean(dim=0), dim=1) for rows in (train, test))
    nearest = (test @ train.T).topk(20).indices  # (m, 20)
    return (y_train[nearest].mode(dim=1).values == y_test).float().mean().item()


@torch.no_grad()
def knn_of_features():
    """Return the same for the features of whole images."""
    model.eval()
    accuracy = knn(*(model.f(F.interpolate(images, size=large_side, mode="bilinear")) for images in (x_train, x_test)))
    model.train()
    return accuracy


# ---------------------------------------------------------------------------------------------------------------- training

model = Model()
optimizer = LARS(model.parameters())
queue = torch.zeros(2, queue_length, D)  # z of earlier large crops, newest first
steps_per_epoch = len(x_train) // B
pixels, untrained = knn(x_train.flatten(1), x_test.flatten(1)), knn_of_features()
print(f"20 nearest neighbors by raw pixels: {pixels:.1%}, by the untrained network: {untrained:.1%}")

for epoch in range(args.epochs):
    total = 0.0
    for step, index in enumerate(torch.randperm(len(x_train))[: steps_per_epoch * B].view(-1, B)):
        progress = (epoch + step / steps_per_epoch) / args.epochs
        optimizer.param_groups[0]["lr"] = min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2

        large, small = x_train[index].repeat(2, 1, 1, 1), x_train[index].repeat(V, 1, 1, 1)
        z, scores = model(crop(large, large_side, large_area), crop(small, small_side, small_area))

        # A batch has two images for each prototype. Balanced together with the queue, it has ten, and its codes are less forced.
        with torch.no_grad():
            queued = model.C(queue) if epoch >= queue_from_epoch else scores[:2, :0]  # (2, queue_length or 0, K)
        q = torch.stack([sinkhorn_knopp(torch.cat([queued[s], scores[s].detach()]))[-B:] for s in range(2)])  # (2, B, K)
        loss = swapped_loss(scores, q)

        optimizer.zero_grad()
        loss.backward()
        if epoch < freeze_epochs:
            model.C.weight.grad = None
        optimizer.step()
        model.normalize_prototypes()
        queue = torch.cat([z[:2].detach(), queue], dim=1)[:, :queue_length]
        total += loss.item()
    # A loss of ln K is that of a network that cannot tell images apart.
    trained = knn_of_features()
    print(f"epoch {epoch + 1:2}: loss {total / steps_per_epoch:.3f} (ln K is {math.log(K):.3f}), neighbors {trained:.1%}", flush=True)

print(f"20 nearest neighbors by raw pixels: {pixels:.1%}, by the untrained network: {untrained:.1%}, by the trained network: {trained:.1%}")
