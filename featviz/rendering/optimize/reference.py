"""Gradient ascent beside reference images: at every step image and reference get the same warp, and are compared.

The score of an image may then speak of what the reference does in the network: stay near it in an early layer
(accentuation), or have activations like its own (caricature).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import Starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Activations, Objective
from featviz.rendering.optimize.ascent import learning_rate, resized
from featviz.rendering.optimize.batching import in_batches
from featviz.rendering.robustness.presets import seeded_robustness
from featviz.rendering.robustness.warps import resample, sampling_matrices


class ReferenceObjective(Objective):
    """A score per image that also depends on its reference image. A subclass gives `compare` and `select`."""

    def compare(self, T: Activations, R: Activations) -> Tensor:
        """The score (image,), to be maximized, from the activations T of the images and R of the references."""
        raise NotImplementedError

    def score(self, T: Activations) -> Tensor:
        """The score of images that are their own references (it is used to estimate memory)."""
        return self.compare(T, lambda layer: T(layer).detach())

    def select(self, index: Sequence[int]) -> "ReferenceObjective":
        raise NotImplementedError


def ascend_beside(
    extractor: FeatureExtractor,
    objective: ReferenceObjective,
    starts: Starts,
    references: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`extractor.config.most_steps` steps of Adam from the starts: images (image, c, h, w) in [0, 1], on the CPU.

    An image depends on its own start, warps and reference alone.

    Args:
        extractor: with the layers of the objective.
        starts: one per image.
        references: (image, c, h, w) in [0, 1], of the size of the images.
        progress: called after every step with (steps done, steps to do), one per image and step.
    """
    config = extractor.config
    total = len(starts) * config.most_steps
    matrices = sampling_matrices(starts.warps, config.image_hw)

    transform = seeded_robustness(None, config, extractor.channels)

    def fed(images: Tensor, rows: list[int], step: int) -> Tensor:
        if transform is not None:
            return resized(transform(images, starts.seeds[rows].tolist(), step), config.input_hw)
        at_step = matrices[step, rows].to(extractor.device, extractor.dtype)
        return resample(images, at_step, config.input_hw, config.border, extractor.mean)

    def work(rows: list[int]) -> Tensor:
        own = objective.select(rows)
        images = parameterization(starts.values[rows].to(extractor.device, extractor.dtype), config)
        photographs = references[rows].to(extractor.device, extractor.dtype)
        adam = torch.optim.Adam([images.values], lr=config.step_size, betas=(config.beta1, 0.999), maximize=True)
        for step in range(config.most_steps):
            with torch.no_grad():
                reference = extractor(fed(photographs, rows, step))
            score = own.compare(extractor(fed(images(), rows, step)).__getitem__, reference.__getitem__)
            (gradient,) = torch.autograd.grad(score.sum(), images.values)
            images.values.grad = gradient.nan_to_num(0, 0, 0).contiguous()
            adam.param_groups[0]["lr"] = learning_rate(config, step)
            adam.step()
            if progress:
                progress(rows[0] * config.most_steps + (step + 1) * len(rows), total)
        with torch.no_grad():
            return images().float().cpu()

    return torch.cat(in_batches(extractor, objective, len(starts), work))
