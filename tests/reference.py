"""The mathematics as naive float64 loops, written from the papers: slow, and independent of the package."""

from __future__ import annotations

import math

import numpy as np


def cosine_scores(n: int, k: int, a: float = 0.7) -> np.ndarray:
    """S(n, k, a)[i, j] = cos(a (i+1)(j+1)): scores for which exact results are known."""
    return np.array([[math.cos(a * (i + 1) * (j + 1)) for j in range(k)] for i in range(n)])


def sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The paper's iteration on Q = exp(scores / epsilon), k x n, with its constants; may overflow, as in the paper."""
    n, k = scores.shape
    q = [[math.exp(scores[i][j] / epsilon) for i in range(n)] for j in range(k)]
    for _ in range(iterations):
        for row in range(k):
            total = sum(q[row])
            q[row] = [x / total / k for x in q[row]]
        for column in range(n):
            total = sum(q[row][column] for row in range(k))
            for row in range(k):
                q[row][column] /= total * n
    return np.array([[q[j][i] * n for j in range(k)] for i in range(n)])


def log_softmax(row: np.ndarray, temperature: float) -> list[float]:
    scaled = [float(x) / temperature for x in row]
    top = max(scaled)
    log_total = top + math.log(sum(math.exp(x - top) for x in scaled))
    return [x - log_total for x in scaled]


def swapped_loss(scores: np.ndarray, codes: np.ndarray, temperature: float) -> float:
    """Mean over assign crops a, other crops v and images of the cross-entropy of code a with the prediction of v."""
    terms = []
    for a in range(len(codes)):
        for v in range(len(scores)):
            if v != a:
                for image in range(scores.shape[1]):
                    prediction = log_softmax(scores[v, image], temperature)
                    terms.append(-sum(q * p for q, p in zip(codes[a, image], prediction, strict=True)))
    return sum(terms) / len(terms)


def pseudo_label_loss(scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean over crops and labeled images of the cross-entropy with the label; 0 without a label."""
    terms = [-log_softmax(crop[image], temperature)[label] for crop in scores for image, label in enumerate(labels.tolist()) if label >= 0]
    return sum(terms) / len(terms) if terms else 0.0


def lars(
    p: np.ndarray, gradients: list[np.ndarray], *, lr: float, momentum: float, weight_decay: float, trust: float = 0.001
) -> list[np.ndarray]:
    """The parameter after each step of LARS."""
    p, m, path = p.astype(np.float64), np.zeros_like(p, dtype=np.float64), []
    for g in gradients:
        p_norm, g_norm = math.sqrt((p * p).sum()), math.sqrt((g * g).sum())
        if p_norm > 0 and g_norm > 0:
            g = (g + weight_decay * p) * trust * p_norm / (g_norm + weight_decay * p_norm + 1e-8)
        m = momentum * m + g
        p = p - lr * m
        path.append(p)
    return path


def nearest(points: np.ndarray, centroids: np.ndarray, spherical: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each point and its distance: squared, or 1 - cosine."""
    chosen, distances = [], []
    for x in points.astype(np.float64):
        far = [
            1 - cosine(x, c) if spherical else sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centroids.astype(np.float64)
        ]
        chosen.append(min(range(len(far)), key=far.__getitem__))
        distances.append(far[chosen[-1]])
    return np.array(chosen), np.array(distances)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle; 0 if one of the vectors is zero."""
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths > 0 else 0.0


def kmeans(
    points: np.ndarray, start: np.ndarray, iterations: int, spherical: bool = False
) -> tuple[np.ndarray, np.ndarray, list[float], list[int]]:
    """Lloyd's iteration, which keeps the centroid of an empty cluster.

    Returns:
        centroids; the nearest of them for each point; for each iteration, the inertia of its assignment and the number of points that moved.
    """
    points, centroids, before = points.astype(np.float64), start.astype(np.float64), [-1] * len(points)
    if spherical:
        points, centroids = (np.array([x / (math.sqrt(sum(x * x)) or 1) for x in rows]) for rows in (points, centroids))
    inertia, n_moved = [], []
    for _ in range(iterations):
        chosen, distances = nearest(points, centroids, spherical)
        inertia.append(sum(distances))
        n_moved.append(sum(a != b for a, b in zip(chosen, before, strict=True)))
        before = chosen
        for cluster in range(len(centroids)):
            members = [x for x, c in zip(points, chosen, strict=True) if c == cluster]
            if members:
                mean = sum(members) / len(members)
                centroids[cluster] = mean / math.sqrt(sum(mean * mean)) if spherical else mean
    return centroids, nearest(points, centroids, spherical)[0], inertia, n_moved
