"""Results of a trained run: embeddings, clusters, and folders of images sorted by cluster."""
