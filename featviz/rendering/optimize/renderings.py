"""What an ascent gives: images, their scores, and how they came about."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Renderings:
    """Images of some units in one network, all on the CPU.

    images: (unit, c, h, w) float32 in [0, 1].
    score: (unit,) of the final image without transforms, at full precision (float32, or float64 where asked
        for).
    trace: (step, unit) of the scores during the ascent, each under that step's transform; NaN after a unit's last step.
    dead: (unit,) bool: the ascent had no usable gradient or ended without a finite score; the image means
        nothing.
    restart: (unit,) which of the unit's starts was used, 0 the first.
    steps: (unit,) how many were made.
    """

    images: Tensor
    score: Tensor
    trace: Tensor
    dead: Tensor
    restart: Tensor
    steps: Tensor

    def __repr__(self) -> str:
        return f"Renderings({len(self)} images of {tuple(self.images.shape[1:])}, {int(self.dead.sum())} dead)"

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, index: Sequence[int]) -> "Renderings":
        """Some of them, in the order of `index`."""
        rows = list(index)
        dead, restart, steps = (part[rows] for part in (self.dead, self.restart, self.steps))
        return Renderings(self.images[rows], self.score[rows], self.trace[:, rows], dead, restart, steps)

    @staticmethod
    def join(parts: Sequence["Renderings"]) -> "Renderings":
        """One after the other."""
        return Renderings(
            torch.cat([part.images for part in parts]),
            torch.cat([part.score for part in parts]),
            joined_traces([part.trace for part in parts]),
            torch.cat([part.dead for part in parts]),
            torch.cat([part.restart for part in parts]),
            torch.cat([part.steps for part in parts]),
        )


def joined_traces(traces: Sequence[Tensor]) -> Tensor:
    """(step, unit) of all, one after the other, NaN where a trace has ended."""
    most = max(map(len, traces))
    return torch.cat([F.pad(trace, (0, 0, 0, most - len(trace)), value=torch.nan) for trace in traces], 1)
