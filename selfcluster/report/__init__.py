"""The report of a run: one page that opens from disk, with its clusters, its map, its curves and a verdict."""
