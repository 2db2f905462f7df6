"""The peers, made to run: torch-lucent 0.1.8 and Horama 0.3.0, in an environment that is made for one run and thrown away.

    uv run --isolated --group peers python benchmarks/throughput.py

lucent calls `kornia.warp_affine` and `kornia.get_rotation_matrix2d`, which have moved: they are put back.
"""

import copy

import horama
import horama.fourier_fv
import kornia
from torch import nn

horama.fourier_fv.tqdm = iter  # no bar
for name in ("warp_affine", "get_rotation_matrix2d"):
    setattr(kornia, name, getattr(kornia.geometry.transform, name))

from lucent.optvis import objectives, param, transform  # noqa: E402
from lucent.optvis.render import render_vis  # noqa: E402

__all__ = ["hooked_copy", "horama", "objectives", "param", "render_vis", "transform"]


def hooked_copy(model: nn.Module) -> nn.Module:
    """For lucent, which never takes its hooks away: a network that is looked at cannot be folded."""
    return copy.deepcopy(model)
