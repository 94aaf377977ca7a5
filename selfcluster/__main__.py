"""`python -m selfcluster` and `torchrun ... -m selfcluster` are the command line."""

from selfcluster.cli import main

main()
