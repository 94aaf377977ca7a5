"""Readers: images and labels in folders, tar, parquet, arrays and named sets."""
