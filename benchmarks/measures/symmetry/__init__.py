"""Measures of symmetry, in the order of the command's help."""

from measures.symmetry import architectures, matching, matching_profile, timm_families

MEASURES = (architectures, matching, matching_profile, timm_families)
