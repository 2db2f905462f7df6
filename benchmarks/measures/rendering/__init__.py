"""Measures of rendering."""
