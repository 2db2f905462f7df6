"""Random warps: one affine resampling per image and step does shift, zoom, rotation and resizing together.

images (unit, c, h, w), warp parameters (unit, 4) -> the network's input (unit, c, h_in, w_in). A feature that stays under
such warps cannot consist of high-frequency noise (Olah et al. 2017, "Feature Visualization", transformation robustness).
Lucid resamples six times (pad, jitter, scale, rotate, jitter, resize); once blurs less and costs a third.
"""

import torch
from kornia.geometry.transform import get_affine_matrix2d
from torch import Tensor
from torch.nn import functional as F


def warp(
    images: Tensor,
    warps: Tensor,
    out_size: tuple[int, int],
    border: str = "reflection",
    fill: Tensor | float = 0.0,
) -> Tensor:
    """Warp every image by its own parameters: (unit, c, h, w) -> (unit, c, h_in, w_in).

    The image is rotated and zoomed about its centre, then shifted, then resized to `out_size`, all in one bilinear
    resampling. Pixels are squares whose centres lie at half-integers (`align_corners=False`), so an image of twice the
    network's input is reduced by exactly two, and the identity at the size of the image gives the image back.

    Args:
        images: (unit, c, h, w).
        warps: (unit, 4): shift x, y (fractions of width, height), scale, angle in degrees; see `Starts.warps`.
        out_size: (h_in, w_in) in pixels.
        border: what is read outside of the image: "reflection", "border" (the pixels of its edge), or "zeros", which
            means `fill`.
        fill: color outside of the image for "zeros": a number, or (c,).
    """
    return resample(images, sampling_matrices(warps, (images.shape[-2], images.shape[-1])), out_size, border, fill)


def sampling_matrices(warps: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrices (..., 2, 3) of warp parameters (..., 4) for images of `size` (h, w), as `resample` takes them.

    A matrix maps a position of the output to the position of the image that is read there, both in coordinates from -1 to 1
    between the outer edges (`align_corners=False`), in which resizing is the identity. They are computed in float64 for all
    steps at once, before the ascent.
    """
    rows = warps.reshape(-1, 4).cpu().double()  # some devices have no float64
    h, w = size
    side = torch.tensor([w, h], dtype=torch.float64)
    centre = ((side - 1) / 2).expand(len(rows), 2)
    forward = get_affine_matrix2d(rows[:, :2] * side, centre, rows[:, 2:3].expand(-1, 2), rows[:, 3])
    to_pixels = _edge_coordinates_to_pixels(w, h)
    backward = torch.linalg.inv(to_pixels) @ torch.linalg.inv(forward) @ to_pixels
    return backward[:, :2].to(warps).reshape(*warps.shape[:-1], 2, 3)


def _edge_coordinates_to_pixels(w: int, h: int) -> Tensor:
    """The matrix of x -> ((x + 1) * side - 1) / 2: from -1 ... 1 between the outer edges to pixel indices."""
    return torch.tensor([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]], dtype=torch.float64)


def resample(
    images: Tensor, matrices: Tensor, out_size: tuple[int, int], border: str, fill: Tensor | float = 0.0
) -> Tensor:
    """Images (unit, c, h, w) read at the positions of `sampling_matrices` (unit, 2, 3); other arguments as for `warp`."""
    grid = _sampling_grid(matrices, out_size)
    if border != "zeros":
        return F.grid_sample(images, grid, padding_mode=border, align_corners=False)
    offset = fill.view(-1, 1, 1) if isinstance(fill, Tensor) else fill
    return F.grid_sample(images - offset, grid, align_corners=False) + offset


def _sampling_grid(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """(unit, h, w, 2): where every output pixel reads, the part of its row plus the part of its column.

    The same as `F.affine_grid`, in fewer operations: a product of matrices per pixel becomes one sum.
    """
    y, x = ((2 * torch.arange(side, device=matrices.device, dtype=matrices.dtype) + 1) / side - 1 for side in size)
    by_column = x[:, None] * matrices[:, None, :, 0]
    by_row = y[:, None] * matrices[:, None, :, 1] + matrices[:, None, :, 2]
    return by_column[:, None] + by_row[:, :, None]


def identity_warps(units: int, like: Tensor) -> Tensor:
    """Warp parameters (unit, 4) that leave the image as it is, with the device and dtype of `like`."""
    return torch.tensor([0.0, 0.0, 1.0, 0.0], device=like.device, dtype=like.dtype).expand(units, 4)
