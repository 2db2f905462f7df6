"""torch-lucent 0.1.8 and Horama 0.3.0, made to run beside featviz.

They need an environment of their own: `uv run --isolated --group peers python benchmarks/rendering.py ...`. lucent calls
`kornia.warp_affine` and `kornia.get_rotation_matrix2d`, which have moved within kornia: they are put back where it looks.
"""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import featviz
from featviz.subjects import input_normalization

MOVED = ("warp_affine", "get_rotation_matrix2d")


def restore_moved_functions() -> None:
    """Put functions that have moved within kornia back where lucent and faccent look."""
    import kornia

    for name in MOVED:
        setattr(kornia, name, getattr(kornia.geometry.transform, name))


def lucent() -> Any:
    """lucent's modules `objectives`, `param` and `transform`, and its function `render_vis`."""
    restore_moved_functions()
    from lucent.optvis import objectives, param, transform
    from lucent.optvis.render import render_vis

    return SimpleNamespace(objectives=objectives, param=param, transform=transform, render_vis=render_vis)


def horama() -> Any:
    """The package horama, without its progress bar."""
    import horama as package
    import horama.fourier_fv

    package.fourier_fv.tqdm = iter
    return package


class NormalisedNetwork(nn.Module):
    """A network that takes images in [0, 1]; its layers have the prefix `net.`."""

    mean, std = (0.0,) * 3, (1.0,) * 3

    def __init__(self, subject: featviz.Subject) -> None:
        super().__init__()
        self.net = subject.model
        self.register_buffer("own_mean", torch.tensor(subject.mean).view(-1, 1, 1))
        self.register_buffer("own_std", torch.tensor(subject.std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.own_mean) / self.own_std)


def hooked_copy(model: nn.Module) -> nn.Module:
    """A copy for lucent, which leaves its hooks on a network."""
    return copy.deepcopy(model)


def own_normalisation(model: nn.Module, side: int) -> dict[str, object]:
    """Arguments of `render_vis` that replace ImageNet's normalisation by the network's own, fed at `side` pixels."""
    transforms = [*lucent().transform.standard_transforms, input_normalization(model, channels=3)]
    return {"transforms": transforms, "preprocess": False, "fixed_image_size": side}


def lucent_images(
    model: nn.Module, layer: str, units: list[int], side: int, steps: tuple[int, ...], **settings: object
) -> list[Tensor]:
    """Images (unit, 3, h, w) in [0, 1] of a batch of units, after each number of steps; `settings` go to `render_vis`."""
    peer = lucent()
    name = layer.replace(".", "_")
    parts = [peer.objectives.channel(name, unit, batch=place) for place, unit in enumerate(units)]
    found = peer.render_vis(
        model, peer.objectives.Objective.sum(parts), lambda: peer.param.image(side, batch=len(units)), thresholds=steps,
        show_image=False, progress=False, **settings,
    )  # fmt: skip
    return [torch.from_numpy(image).permute(0, 3, 1, 2).float() for image in found]
