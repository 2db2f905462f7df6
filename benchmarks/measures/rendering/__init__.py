"""Measures of rendering, in the order of the command's help."""

from measures.rendering import ablation, defaults, gpu, memory, quality, throughput

MEASURES = (throughput, quality, defaults, ablation, memory, gpu)
