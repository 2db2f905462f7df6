"""Seeding: the random start of every unit's image, and the random warps of all its steps, decided before the ascent.

(seed, layer, unit, restart) -> `Starts`. Every unit has random generators of its own, so what it gets does not depend on
the units that it is batched with; subjects that share the starts differ by their weights alone. The warps do not depend on
the image size, and those of a short ascent are the first ones of a longer ascent. Their ranges narrow
(`RenderConfig.final_range`).
"""

import hashlib
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.config import SETTLING_STEPS, RenderConfig
from featviz.rendering.image.parameterizations import parameterization_class


@dataclass(frozen=True, eq=False)
class Starts:
    """The starts of some units.

    values: (unit, ...), the first values of what Adam moves; the shape of one unit's is the parameterization's `start_shape`.
    warps: (step, unit, 4), the parameters of the warp at every step: shift x and y as fractions of width and height (right
        and down are positive), scale (1 leaves the size, more enlarges), angle in degrees (clockwise is positive). At least
        one step, also where no step will be made: whether a unit has a gradient is tried under the first warp.
    restart: (unit,) which of its starts each unit has, 0 for the first; on the CPU.
    seeds: (unit,) int64 of the transforms that take the place of the warps; on the CPU.
    """

    values: Tensor
    warps: Tensor
    restart: Tensor
    seeds: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def select(self, index: Sequence[int] | Tensor) -> "Starts":
        """The starts of the units at `index`, in that order."""
        rows = torch.as_tensor(index, dtype=torch.long)
        on_device = rows.to(self.values.device)
        return Starts(
            self.values[on_device], self.warps[:, on_device], self.restart[rows.cpu()], self.seeds[rows.cpu()]
        )

    def replace(self, index: Sequence[int] | Tensor, other: "Starts") -> "Starts":
        """These starts, where the units at `index` have those of `other` (as many, in that order)."""
        rows = torch.as_tensor(index, dtype=torch.long)
        on_device = rows.to(self.values.device)
        values, warps, restart, seeds = (x.clone() for x in (self.values, self.warps, self.restart, self.seeds))
        values[on_device], warps[:, on_device] = other.values, other.warps
        restart[rows.cpu()], seeds[rows.cpu()] = other.restart, other.seeds
        return Starts(values, warps, restart, seeds)


def generator(*key: Hashable) -> torch.Generator:
    """A CPU generator seeded by the BLAKE2b digest of the key's `repr` (ints, strings and tuples of them)."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: Hashable) -> int:
    """A number from 0 to 2**63 - 1: the BLAKE2b digest of the key's `repr`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seeded_starts(
    config: RenderConfig,
    keys: Sequence[Hashable],
    channels: int,
    restart: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Starts:
    """The starts of the units named by `keys`, for images of `channels` color channels.

    Random numbers are made in float64 and rounded to `dtype`, so that the same seed means the same image at every precision.

    Args:
        keys: one per unit, ints, strings or tuples of them, for example ("layer3.1.conv2", 17).
        restart: 0, 1, 2, ...; each gives a unit another start and other warps.
    """
    shape = parameterization_class(config).start_shape(channels, config)
    steps = max(config.most_steps, 1)
    values = torch.empty(len(keys), *shape, dtype=dtype)
    uniform = torch.empty(steps, len(keys), 4, dtype=torch.float64)

    def draw(unit: int) -> None:
        normal = generator(config.seed, keys[unit], restart, "start")
        warps = generator(config.seed, keys[unit], restart, "tape")  # another word would give other warps to every seed
        values[unit] = torch.randn(shape, generator=normal, dtype=torch.float64) * config.sd
        uniform[:, unit] = torch.rand(steps, 4, generator=warps, dtype=torch.float64) * 2 - 1

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # beside a GPU this was half of the set-up
        list(threads.map(draw, range(len(keys))))
    reach = torch.tensor([config.jitter, config.jitter, config.scale, config.rotation], dtype=torch.float64)
    identity = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    seeds = torch.tensor([seed_of(config.seed, key, restart, "transform") for key in keys], dtype=torch.int64)
    warps = identity + reach * _narrowing(config, steps)[:, None, None] * uniform
    return Starts(values, warps.to(dtype), torch.full((len(keys),), restart), seeds)


def _narrowing(config: RenderConfig, steps: int) -> Tensor:
    """(step,) what the ranges of the warps are multiplied by: from 1 down to `config.final_range`, where they stay."""
    done = (torch.arange(steps, dtype=torch.float64) / SETTLING_STEPS).clamp(max=1)
    return 1 - (1 - config.final_range) * done
