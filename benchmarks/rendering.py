"""Benchmarks of rendering: speed, quality and memory. One subcommand for each measure; MEASURE --help explains it.

Examples:
    uv run --isolated --group peers python benchmarks/rendering.py throughput --keep
    uv run python benchmarks/rendering.py memory --keep
"""

from measures.command import main
from measures.rendering import ablation, defaults, gpu, memory, quality, throughput

if __name__ == "__main__":
    main(__doc__, [throughput, quality, defaults, ablation, memory, gpu])
