"""Measures of merging, in the order of the command's help."""

from measures.merging import accuracy, bundle, grids, heads, many, plots, train

MEASURES = (accuracy, plots, heads, many, grids, train, bundle)
