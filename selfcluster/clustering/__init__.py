"""Mathematics on matrices: k-means, Sinkhorn-Knopp, whitening, neighbors, outliers, metrics. No images, settings or files."""
