"""What is optimized: parameterizations of images, their spectrum, color and seeding.

Importing this package registers the parameterizations "fourier", "pixel" and "maco".
"""

from featviz.rendering.image import fourier, maco, pixel

__all__ = ["fourier", "maco", "pixel"]
