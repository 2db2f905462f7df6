"""Atlases: panels and evidence of many units on disk, made by one process or many, and read one item at a time."""
