"""Measures of `benchmarks/page.py`."""

from measures.page import scale

MEASURES = (scale,)
