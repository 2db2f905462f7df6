"""What an ascent gives: images, their scores, and how they came about."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Renderings:
    """Images of some units in one network, all on the CPU.

    images: (unit, c, h, w) float32 in [0, 1].
    score: (unit,) of the final image without transforms, at full precision (float32, or float64 where asked
        for).
    trace: (step, unit) of the scores during the ascent, each under that step's warp.
    dead: (unit,) bool: the ascent had no usable gradient or ended without a finite score; the image means
        nothing.
    restart: (unit,) which of the unit's starts was used, 0 the first.
    """

    images: Tensor
    score: Tensor
    trace: Tensor
    dead: Tensor
    restart: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, index: Sequence[int]) -> "Renderings":
        """Some of them, in the order of `index`."""
        rows = list(index)
        return Renderings(self.images[rows], self.score[rows], self.trace[:, rows], self.dead[rows], self.restart[rows])

    @staticmethod
    def join(parts: Sequence["Renderings"]) -> "Renderings":
        """One after the other."""
        return Renderings(
            torch.cat([part.images for part in parts]),
            torch.cat([part.score for part in parts]),
            torch.cat([part.trace for part in parts], 1),
            torch.cat([part.dead for part in parts]),
            torch.cat([part.restart for part in parts]),
        )
