"""Measures of symmetry, in the order of the command's help."""

from measures.symmetry import architectures, matching, timm_families

MEASURES = (architectures, matching, timm_families)
