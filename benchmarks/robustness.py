"""Benchmarks of robustness: what readers of files and of text do with damaged and hostile input. MEASURE --help explains it.

Examples:
    uv run python benchmarks/robustness.py fuzz --keep
    uv run python benchmarks/robustness.py fuzz --reader alignments --seed 4711
"""

from measures.command import main
from measures.robustness import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
