"""Fates: what became of every unit of the parents in their merge, measured on natural images."""
