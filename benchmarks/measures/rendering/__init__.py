"""Measures of rendering, in the order of the command's help."""

from measures.rendering import ablation, backends, defaults, gpu, memory, odd_networks, quality, threads, throughput

MEASURES = (throughput, quality, defaults, ablation, memory, backends, threads, odd_networks, gpu)
