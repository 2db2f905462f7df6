"""Measures of merging."""
