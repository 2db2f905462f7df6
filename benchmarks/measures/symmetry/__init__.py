"""Measures of symmetry."""
