"""What a trained run gives: embeddings, clusters, and folders of them."""
