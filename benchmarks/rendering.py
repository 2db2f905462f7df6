"""Benchmarks of rendering: speed, quality and memory. One subcommand for each measure; MEASURE --help explains it.

Examples:
    uv run --isolated --group peers python benchmarks/rendering.py throughput --keep
    uv run python benchmarks/rendering.py memory --keep
"""

from measures.command import main
from measures.rendering import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
