"""Exemplars: for every unit the images that excite it most, and the part of each that it sees."""
