"""The command line, for `python -m selfcluster` and `torchrun ... -m selfcluster`."""

from selfcluster.cli import main

main()
