"""Measures of atlases, in the order of the command's help."""

from measures.atlas import whole, workers

MEASURES = (whole, workers)
