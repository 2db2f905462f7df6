"""Prove permutation groups: permute each at random in float64 and compare the network's output.

A group that changes the function is bisected out, demoted to pinned, and reported: exact or refused.
"""

import numpy as np
import torch
from torch import nn

from featviz.algebra.groups import Group, LayerUnits, PermutationGroups, Pinned
from featviz.algebra.labels import tensors_of
from featviz.algebra.permutation import permute_module
from featviz.errors import AlignmentError

TOLERANCE = 1e-9  # relative error in float64 above which a permutation changes the function


def verified(trial: nn.Module, inputs: tuple, found: PermutationGroups) -> PermutationGroups:
    """Leave out every group whose random permutation changes the network's output.

    Args:
        trial: a private copy of the network in float64; its constant vectors and norm statistics are randomised.
        inputs: the example's arguments in float64.
    """
    if not found.groups:
        return found
    generator = torch.Generator().manual_seed(0)
    randomise_constants(trial, generator)
    wrong = _wrong_groups(trial, inputs, list(range(len(found))), found, generator)
    if not wrong:
        return found
    keep = [number for number in range(len(found)) if number not in wrong]
    renumber = np.full(len(found) + 1, -1, dtype=np.int64)
    renumber[keep] = np.arange(len(keep))

    def without(units: LayerUnits) -> LayerUnits:
        group = renumber[units.group]
        return LayerUnits(units.width, units.axis, group, np.where(group < 0, -1, units.element))

    reason = "permuting it changes the output (found by verification)"
    demoted = [Pinned(a.parameter, a.axis, found.groups[n].size, reason) for n in wrong for a in found.groups[n].axes]
    return PermutationGroups(
        tuple(found.groups[n] for n in keep),
        {name: without(units) for name, units in found.layers.items()},
        {name: without(units) for name, units in found.reads.items()},
        (*found.pinned, *demoted),
        found.unknown,
    )


def randomise_constants(model: nn.Module, generator: torch.Generator) -> None:
    """Make every 1-d tensor vary along its axis, in place, so that a wrong permutation of it cannot hide."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if (tensor == tensor.flatten()[0]).all() or name.endswith(("running_mean", "running_var")):
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(0.5 + noise if not name.endswith("running_mean") else noise - 0.5)


def _wrong_groups(
    trial: nn.Module, inputs: tuple, numbers: list[int], found: PermutationGroups, generator: torch.Generator
) -> list[int]:
    """Bisect: the groups among `numbers` that change the output, each found alone."""
    subset = [found.groups[n] for n in numbers]
    if not numbers or relative_error(trial, inputs, subset, generator) <= TOLERANCE:
        return []
    if len(numbers) == 1:
        return numbers
    half = len(numbers) // 2
    left = _wrong_groups(trial, inputs, numbers[:half], found, generator)
    right = _wrong_groups(trial, inputs, numbers[half:], found, generator)
    if not left and not right:  # each half is right alone, not together: refuse them all
        return numbers
    return left + right


def relative_error(model: nn.Module, inputs: tuple, groups: list[Group], generator: torch.Generator) -> float:
    """Largest change of any output under one random permutation per group, over the output's largest value."""
    perms = {group.name: torch.randperm(group.size, generator=generator).numpy() for group in groups}
    with torch.no_grad():
        before = tensors_of(model(*inputs))
        after = tensors_of(permute_module(model, groups, perms)(*inputs))
    if any(not t.isfinite().all() for t in before):
        raise AlignmentError(
            "the network's output on the example input is not finite: check its weights and the example input."
        )
    errors = [
        float((b - a).abs().max() / b.abs().max().clamp_min(1e-300))
        for b, a in zip(before, after, strict=True)
        if b.numel() and b.is_floating_point()
    ]
    return max(errors, default=0.0)
