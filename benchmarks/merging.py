"""Benchmarks of merging on CIFAR-10: accuracy, paths, heads, many networks, pictures, and the training of pairs.

Examples:
    uv run python benchmarks/merging.py train --data cifar/ --arch resnet20 --width 1 --seeds 0 1 2 --out runs/
    uv run python benchmarks/merging.py accuracy --data cifar/ --runs runs/ --keep
"""

from measures.command import main
from measures.merging import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
