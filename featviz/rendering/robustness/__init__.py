"""Random transforms of the images at every step."""
