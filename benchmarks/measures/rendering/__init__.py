"""Measures of rendering, in the order of the command's help."""

from measures.rendering import (
    all_units,
    backends,
    defaults,
    gpu,
    memory,
    odd_networks,
    peer_pictures,
    pictures,
    quality,
    threads,
    throughput,
)

MEASURES = (
    throughput,
    pictures,
    all_units,
    peer_pictures,
    quality,
    defaults,
    memory,
    backends,
    threads,
    odd_networks,
    gpu,
)
