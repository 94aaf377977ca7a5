"""Matrices in, matrices out: k-means, Sinkhorn-Knopp, whitening, neighbors, outliers, metrics. No images, settings or files."""
