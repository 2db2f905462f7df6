"""The draw: per unit, the random start and the whole tape of random warps, decided before the ascent begins.

(seed, key of the unit, restart) -> Draw. Every unit has its own generators, so its draw never depends on the
units it is batched with, and subjects that share a draw differ by their weights alone. The tape does not
depend on the image size, and the tape of a shorter ascent begins that of a longer one.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.rendering.image.spectrum import spectrum_shape


@dataclass(frozen=True, eq=False)
class Draw:
    """Starts and tapes of some units.

    start: (unit, channels, h, w//2 + 1, 2) for the Fourier parameterization, (unit, channels, h, w) for
        pixels.
    tape: (step, unit, 4): shift x and y as fractions of width and height (right and down positive), scale (1
        leaves the size, more enlarges), angle in degrees (clockwise positive). At least one row, so that
        there is a first view of a start that is not to be moved.
    restart: (unit,) which of its draws each unit has, 0 the first; on the CPU.
    """

    start: Tensor
    tape: Tensor
    restart: Tensor

    def __len__(self) -> int:
        return self.start.shape[0]

    def pick(self, index: Sequence[int] | Tensor) -> "Draw":
        """The draw of some of its units, in the order of `index`."""
        rows = torch.as_tensor(index, dtype=torch.long)
        there = rows.to(self.start.device)
        return Draw(self.start[there], self.tape[:, there], self.restart[rows.cpu()])

    def replace(self, index: Sequence[int] | Tensor, other: "Draw") -> "Draw":
        """This draw with the units at `index` replaced by the units of `other` (as many, in that order)."""
        rows = torch.as_tensor(index, dtype=torch.long)
        there = rows.to(self.start.device)
        start, tape, restart = self.start.clone(), self.tape.clone(), self.restart.clone()
        start[there], tape[:, there], restart[rows.cpu()] = other.start, other.tape, other.restart
        return Draw(start, tape, restart)


def generator(*key: Hashable) -> torch.Generator:
    """A CPU generator seeded by the BLAKE2b digest of the key's `repr` (ints, strings and tuples of them)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw(
    config: RenderConfig,
    keys: Sequence[Hashable],
    channels: int,
    restart: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Draw:
    """Draw the starts and tapes of the units named by `keys`, for images of `channels` color channels.

    Drawn in float64 and rounded to `dtype`, so that the same seed means the same image at every precision.

    Args:
        keys: one per unit, ints, strings or tuples of them, for example ("layer3.1.conv2", 17).
        restart: number of this attempt; each gives another draw.
    """
    h, w = config.canvas
    shape = (channels, h, w) if config.parameterization == "pixel" else (channels, *spectrum_shape((h, w)))
    starts, tapes = [], []
    for key in keys:
        normal = generator(config.seed, key, restart, "start")
        uniform = generator(config.seed, key, restart, "tape")
        starts.append(torch.randn(shape, generator=normal, dtype=torch.float64) * config.sd)
        tapes.append(torch.rand(max(config.steps, 1), 4, generator=uniform, dtype=torch.float64) * 2 - 1)
    width = torch.tensor([config.jitter, config.jitter, config.scale, config.rotation], dtype=torch.float64)
    middle = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    start = torch.stack(starts) if starts else torch.empty(0, *shape)
    tape = torch.stack(tapes, 1) if tapes else torch.empty(max(config.steps, 1), 0, 4)
    return Draw(start.to(dtype), (middle + width * tape).to(dtype), torch.full((len(keys),), restart))
