"""Color: before the sigmoid, colors are written along axes that are uncorrelated over natural images.

x (unit, 3, h, w) -> M x per pixel; the rows of M give red, green and blue. Without it the ascent moves the three channels as
if they were independent and ends in garish colors (Olah et al. 2017, "Feature Visualization", preconditioning).
"""

import torch
from torch import Tensor

from featviz.config import Matrix3, RenderConfig
from featviz.data import Data, inputs_of
from featviz.errors import RenderError


def _normalized(matrix: Tensor) -> Matrix3:
    """The 3x3 matrix divided by the largest Euclidean norm of its columns, as plain numbers."""
    rows = (matrix / matrix.norm(dim=0).max()).tolist()
    return tuple(tuple(row) for row in rows)  # pyright: ignore[reportReturnType]


IMAGENET_MATRIX: Matrix3 = _normalized(
    torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64)
)
"""Lucid's square root of the color covariance of ImageNet, divided by its largest column norm (0.46195)."""

DARKEST = (
    1 / 512
)  # pixels of a photograph are kept this far from 0 and 1, where the logit is infinite: half a step of 8 bits


def color_tensor(config: RenderConfig) -> Tensor | None:
    """The config's color matrix (3, 3) in float64, None where it has none."""
    if config.color is None:
        return None
    return torch.tensor(IMAGENET_MATRIX if isinstance(config.color, str) else config.color, dtype=torch.float64)


def recorrelate(x: Tensor, matrix: Tensor) -> Tensor:
    """M x at every pixel: x (unit, 3, h, w) and matrix (3, 3) -> (unit, 3, h, w)."""
    return (matrix @ x.flatten(2)).view_as(x)


def logit(images: Tensor) -> Tensor:
    """The inverse of the sigmoid, of images in [0, 1]. Pixels closer than `DARKEST` to 0 or 1 are moved to there."""
    return images.clamp(DARKEST, 1 - DARKEST).logit()


def color_matrix(data: Data) -> Matrix3:
    """The decorrelation matrix of a data set, for `RenderConfig(color=...)`.

    U sqrt(S) of the singular value decomposition of the covariance of its pixels, divided by the largest column norm: what
    Lucid did for ImageNet. Columns are sorted by variance; the first entry of each is positive. The covariance is summed in
    float64, with one batch in memory at a time. A common offset or factor of the values (0-255 instead of 0-1) does not
    matter; a normalization per channel does, so leave it out of the data's transforms.

    Args:
        data: batches x (batch, 3, h, w), or (x, label).

    Raises:
        RenderError: there is no batch, or a batch that is not (batch, 3, h, w), or all pixels are equal.
    """
    count = 0
    total, outer = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for x in inputs_of(data, torch.device("cpu")):
        if x.ndim != 4 or x.shape[1] != 3:
            raise RenderError(f"a batch of {tuple(x.shape)} has no color: color_matrix needs (batch, 3, h, w).")
        pixels = x.detach().to(torch.float64).movedim(1, 0).flatten(1)
        count += pixels.shape[1]
        total += pixels.sum(1)
        outer += pixels @ pixels.T
    if count == 0:
        raise RenderError("the data for the color matrix is empty: give at least one batch of images.")
    mean = total / count
    covariance = outer / count - mean[:, None] * mean
    if not covariance.diagonal().max() > 1e-12 * (mean**2).max():
        raise RenderError("all pixels of the data for the color matrix are equal: give real images.")
    u, s, _ = torch.linalg.svd(covariance)
    root = u * s.sqrt()
    return _normalized(root * torch.where(root[0] < 0, -1.0, 1.0))
