"""Propagation rules, one file per kind of operator."""
