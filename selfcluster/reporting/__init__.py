"""The page about a run: what it shows, and how it is made."""
