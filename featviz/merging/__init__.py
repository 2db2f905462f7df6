"""Aligned networks become one: weighted averages, repair of their statistics, and measures of the result."""
