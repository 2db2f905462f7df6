"""Benchmarks of atlases: a whole network, and many workers. MEASURE --help explains it.

Examples:
    uv run python benchmarks/atlas.py whole_network --data cifar/ --keep
    uv run python benchmarks/atlas.py workers --keep
"""

from measures.atlas import MEASURES
from measures.command import main

if __name__ == "__main__":
    main(__doc__, MEASURES)
