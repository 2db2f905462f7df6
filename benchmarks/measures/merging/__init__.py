"""Measures of merging, in the order of the command's help."""

from measures.merging import accuracy, bundle, grids, heads, many, objectives, plots, train, variance

MEASURES = (accuracy, objectives, variance, plots, heads, many, grids, train, bundle)
