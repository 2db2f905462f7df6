"""Benchmarks of the page. One subcommand for each measure; MEASURE --help explains it.

Examples:
    uv run python benchmarks/page.py scale --keep
"""

from measures.command import main
from measures.page import MEASURES

if __name__ == "__main__":
    main(__doc__, MEASURES)
