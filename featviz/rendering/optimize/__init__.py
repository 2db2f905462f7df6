"""Gradient ascent: the loop, batches, restarts."""
