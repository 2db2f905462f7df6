"""Robustness to small warps: one affine resample per image and step does jitter, zoom, rotation and resize
together.

images (unit, c, h, w) and a tape row (unit, 4) -> what the network is fed (unit, c, h_in, w_in). A feature
that holds under such warps cannot be made of high-frequency noise (Olah et al. 2017, transformation
robustness). One resample instead of Lucid's pad, jitter, scale, rotate, jitter and resize blurs once and
costs a third.
"""

import torch
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor


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
    return warp_by(images, affine_matrices(tape_row, (h, w), out_size), out_size, border, fill)


def affine_matrices(tape: Tensor, size: tuple[int, int], out_size: tuple[int, int]) -> Tensor:
    """The pixel matrices (..., 2, 3) from image to network input of the tape rows (..., 4)."""
    rows = tape.reshape(-1, 4)
    h, w = size
    kind = {"device": tape.device, "dtype": tape.dtype}
    side = torch.tensor([w, h], **kind)
    centre = ((side - 1) / 2).expand(len(rows), 2)
    scale = rows[:, 2:3].expand(-1, 2)
    moved = get_affine_matrix2d(rows[:, :2] * side, centre, scale, rows[:, 3])
    zoom = torch.tensor([out_size[1] / w, out_size[0] / h], **kind)
    resize = torch.eye(3, **kind)
    resize[0, 0], resize[1, 1] = zoom
    resize[:2, 2] = zoom / 2 - 0.5
    return (resize @ moved)[:, :2].reshape(*tape.shape[:-1], 2, 3)


def warp_by(
    images: Tensor, matrices: Tensor, out_size: tuple[int, int], border: str, fill: Tensor | float = 0.0
) -> Tensor:
    """Resample images (unit, c, h, w) by pixel matrices (unit, 2, 3) from image to output; see `warp`."""
    if border != "zeros":
        return warp_affine(images, matrices, out_size, padding_mode=border, align_corners=False)
    shift = fill.view(-1, 1, 1) if isinstance(fill, Tensor) else fill
    return warp_affine(images - shift, matrices, out_size, padding_mode="zeros", align_corners=False) + shift


def neutral_row(units: int, like: Tensor) -> Tensor:
    """A tape row (unit, 4) that moves nothing."""
    return torch.tensor([0.0, 0.0, 1.0, 0.0], device=like.device, dtype=like.dtype).expand(units, 4)
