"""Permutations exchanged with other tools."""
