"""Weights of networks: checkpoint files, state dicts, tensors by name, checks."""
