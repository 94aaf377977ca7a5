"""A run's network in forms that others read; one format a file."""
