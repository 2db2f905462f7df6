"""Benchmarks of symmetries: which architectures are traced exactly, and what matching costs.

Examples:
    uv run python benchmarks/symmetry.py architectures --keep
    uv run python benchmarks/symmetry.py matching --keep
"""

from measures.command import main
from measures.symmetry import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
