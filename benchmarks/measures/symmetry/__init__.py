"""Measures of symmetry, in the order of the command's help."""

from measures.symmetry import architectures, matching

MEASURES = (architectures, matching)
