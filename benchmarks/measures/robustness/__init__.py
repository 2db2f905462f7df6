"""Measures of robustness, in the order of the command's help."""

from measures.robustness import fuzz, kills

MEASURES = (fuzz, kills)
