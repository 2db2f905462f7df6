"""Benchmarks of the evidence on CIFAR-10: fates of the bundled pair's units, the cost of a pass, what pictures tell.

Examples:
    uv run python benchmarks/evidence.py fates --data cifar/ --keep
    uv run python benchmarks/evidence.py pass --data cifar/ --tested 10000
"""

from measures.command import main
from measures.evidence import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
