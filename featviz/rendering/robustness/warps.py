"""Robustness to small warps: one affine resample per image and step does jitter, zoom, rotation and resize
together.

images (unit, c, h, w) and a tape row (unit, 4) -> what the network is fed (unit, c, h_in, w_in). A feature
that holds under such warps cannot be made of high-frequency noise (Olah et al. 2017, transformation
robustness). One resample instead of Lucid's pad, jitter, scale, rotate, jitter and resize blurs once and
costs a third.
"""

import torch
from kornia.geometry.transform import get_affine_matrix2d
from torch import Tensor
from torch.nn import functional as F


def warp(
    images: Tensor,
    tape_row: Tensor,
    out_size: tuple[int, int],
    border: str = "reflection",
    fill: Tensor | float = 0.0,
) -> Tensor:
    """Warp every image by its own row.

    The image is rotated and zoomed about its centre, then shifted, then resized to `out_size`, all bilinear
    in one resample. Pixels are squares with their centre at half-integers (`align_corners=False`), so a
    canvas twice the network's input is shrunk by exactly two, and a neutral row at the canvas size gives the
    image back.

    Args:
        images: (unit, c, h, w).
        tape_row: (unit, 4): shift x, y (fractions of width, height), scale, angle in degrees; see
            `Draw.tape`.
        out_size: (h_in, w_in) in pixels.
        border: what lies outside of the image: "reflection", "border" (its edge) or "zeros", which means
            `fill`.
        fill: colour beyond the border for "zeros": a number, or (c,).
    """
    h, w = images.shape[-2:]
    return warp_by(images, sampling_matrices(tape_row, (h, w)), out_size, border, fill)


def sampling_matrices(tape: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the network's input reads an image of `size` (h, w): matrices (..., 2, 3) of tape rows (..., 4), for `warp_by`.

    From output to image, in coordinates that run from -1 to 1 between the outer edges (`align_corners=False`), in which
    resizing changes nothing. Made in float64 for a whole tape at once: nothing is left for a step of the ascent to compute.
    """
    rows = tape.reshape(-1, 4).cpu().double()  # some devices have no float64
    h, w = size
    side = torch.tensor([w, h], dtype=torch.float64)
    centre = ((side - 1) / 2).expand(len(rows), 2)
    moved = get_affine_matrix2d(rows[:, :2] * side, centre, rows[:, 2:3].expand(-1, 2), rows[:, 3])
    pixels = _pixels(w, h)
    found = torch.linalg.inv(pixels) @ torch.linalg.inv(moved) @ pixels
    return found[:, :2].to(tape).reshape(*tape.shape[:-1], 2, 3)


def _pixels(w: int, h: int) -> Tensor:
    """From edge coordinates to pixels: ((x + 1) * side - 1) / 2."""
    return torch.tensor([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]], dtype=torch.float64)


def warp_by(
    images: Tensor, matrices: Tensor, out_size: tuple[int, int], border: str, fill: Tensor | float = 0.0
) -> Tensor:
    """Resample images (unit, c, h, w) by `sampling_matrices` (unit, 2, 3); see `warp`."""
    grid = _grid(matrices, out_size)
    if border != "zeros":
        return F.grid_sample(images, grid, padding_mode=border, align_corners=False)
    shift = fill.view(-1, 1, 1) if isinstance(fill, Tensor) else fill
    return F.grid_sample(images - shift, grid, align_corners=False) + shift


def _grid(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Where every output pixel reads: (unit, h, w, 2), what its row gives and what its column gives, added."""
    down, across = (
        (2 * torch.arange(side, device=matrices.device, dtype=matrices.dtype) + 1) / side - 1 for side in size
    )
    of_columns = across[:, None] * matrices[:, None, :, 0]
    of_rows = down[:, None] * matrices[:, None, :, 1] + matrices[:, None, :, 2]
    return of_columns[:, None] + of_rows[:, :, None]


def neutral_row(units: int, like: Tensor) -> Tensor:
    """A tape row (unit, 4) that moves nothing."""
    return torch.tensor([0.0, 0.0, 1.0, 0.0], device=like.device, dtype=like.dtype).expand(units, 4)
