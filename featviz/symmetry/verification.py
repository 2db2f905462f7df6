"""Verify permutation groups: permute all of them at random in float64 and compare the network's output.

A group that changes the output is found by bisection, left out, and reported as pinned: exact or refused.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from featviz.errors import AlignmentError, summary
from featviz.isolation import copy_of
from featviz.symmetry.groups import Group, Index, PermutationGroups, Pinned
from featviz.symmetry.lower_precision import called_in_float64
from featviz.symmetry.permute import layer_permutation, permute_module, random_permutations
from featviz.weights.tensors import named_tensors, tensors_of

log = logging.getLogger("featviz.symmetry")

T = TypeVar("T")
Family = tuple[Group, ...]
TOLERANCE = 1e-9  # relative error in float64 above which a permutation changes the function
AMPLIFIED = 1e-5  # the largest error that may be rounding: what a wrong permutation does is larger by far
REFUSED = "permuting it changes the output (found by verification)"


def verified(trial: nn.Module, inputs: tuple, found: PermutationGroups, before: Sequence[Tensor]) -> PermutationGroups:
    """Leave out every group whose random permutation changes the network's output.

    Channels of free outputs are expected to be permuted with their groups.

    Args:
        trial: a private copy of the network in float64 whose constant vectors and norm statistics are randomised.
        inputs: the example's arguments in float64.
        before: the trial's outputs.
    """
    if not found.groups:
        return found
    perms = random_permutations(found, np.random.default_rng(0))

    def error_of(families: Sequence[Family]) -> float:
        """`relative_error` where the groups of these families are permuted, together."""
        names = {group.name for family in families for group in family}
        moved = {name: perm for name, perm in perms.items() if name in names}
        outputs = [layer_permutation(units, found.groups, moved) if units else None for units in found.outputs]
        return relative_error(trial, inputs, [group for group in found if group.name in names], perms, outputs, before)

    families = found.families()
    error, tolerance = error_of(families), TOLERANCE
    if TOLERANCE < error <= AMPLIFIED:
        rounding = rounding_error(trial, inputs, before)
        tolerance = max(TOLERANCE, 10 * rounding)
        log.info(
            "all permutations together change the output by %.0e, the last digit of the weights by %.0e: an error up to %.0e "
            "counts as rounding in the proof of this network's groups", error, rounding, tolerance,
        )  # fmt: skip
    wrong = [] if error <= tolerance else _wrong(families, error_of, tolerance)
    refused = {group.name for family in wrong for group in family}
    if not refused:
        return found
    pinned = [Pinned(a.parameter, a.axis, g.size, REFUSED) for g in found if g.name in refused for a in g.axes]
    kept = found.keeping([number for number, group in enumerate(found) if group.name not in refused], REFUSED)
    return replace(kept, pinned=(*found.pinned, *pinned))


class _Float64Throughout(TorchDispatchMode):
    """While active, every operator is `called_in_float64`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return called_in_float64(func, args, kwargs or {})


def in_float64(run: Callable[[bool], T]) -> T:
    """What a run of a network of float64 weights gives, in float64 throughout where the network's code allows it.

    Args:
        run: called with whether its operators are to be `called_in_float64`.
    """
    with torch.no_grad():
        try:
            return run(True)
        except RuntimeError as error:  # it writes float64 into a tensor that it made in a lower precision
            log.info(
                "the proof of the groups keeps the network's own conversions to lower precision: %s", summary(error)
            )
        return run(False)


def outputs_of(model: nn.Module, inputs: tuple) -> list[Tensor]:
    """The tensors that a network of float64 weights returns; `inputs` stay as they are."""

    def run(throughout: bool) -> list[Tensor]:
        own = cloned(inputs)
        with _Float64Throughout() if throughout else contextlib.nullcontext():
            return tensors_of(model(*own))

    return in_float64(run)


def cloned(inputs: tuple) -> tuple:
    """Arguments that a network may write into."""
    return tree_map_only(Tensor, Tensor.clone, inputs)


def is_random(model: nn.Module, inputs: tuple) -> bool:
    """Whether two fresh copies of the network give different outputs on the same input."""
    one, other = (outputs_of(copy_of(model), inputs) for _ in range(2))
    return any(_relative_difference(a, b) > TOLERANCE for a, b in zip(one, other, strict=True))


def randomise_constants(model: nn.Module, generator: torch.Generator) -> None:
    """Make every tensor that is one constant vary, in place, so that a wrong permutation of it cannot hide.

    Tensors with infinities (bounds, masks) stay as they are.
    """
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            values = tensor.flatten()
            constant = bool(values[0] == values[-1]) and bool((values == values[0]).all())
            statistics = name.endswith(("running_mean", "running_var"))
            if (constant or statistics) and not values.isinf().any():
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(0.5 + noise if not name.endswith("running_mean") else noise - 0.5)


def _wrong(families: Sequence[Family], error_of: Callable[[Sequence[Family]], float], tolerance: float) -> list[Family]:
    """Bisect: the families of groups that change the output, each found alone."""
    if not families or error_of(families) <= tolerance:
        return []
    if len(families) == 1:
        return list(families)
    half = len(families) // 2
    wrong = _wrong(families[:half], error_of, tolerance) + _wrong(families[half:], error_of, tolerance)
    return wrong or list(families)  # each half is right alone, not together: refuse them all


def rounding_error(model: nn.Module, inputs: tuple, before: Sequence[Tensor], draws: int = 3) -> float:
    """By how much the outputs change, over the largest output, where every weight changes by its last digit.

    A permutation changes the order of sums, which a network may amplify as much.

    Args:
        before: the network's outputs.
        draws: how many changes are drawn; the largest error counts.
    """
    generator = torch.Generator().manual_seed(0)
    errors = [0.0]
    with torch.no_grad():
        for _ in range(draws):
            changed = copy_of(model)
            for parameter in changed.parameters():
                sign = torch.randint(-1, 2, parameter.shape, generator=generator).to(parameter)
                parameter.mul_(1 + torch.finfo(parameter.dtype).eps * sign)
            after = outputs_of(changed, inputs)
            errors += [_relative_difference(one, other) for one, other in zip(before, after, strict=True)]
    return max(errors)


def relative_error(
    model: nn.Module,
    inputs: tuple,
    groups: Iterable[Group],
    perms: Mapping[str, Index],
    outputs: Sequence[Index | None] = (),
    before: Sequence[Tensor] | None = None,
) -> float:
    """Largest change of any output under the permutations of some groups, over the output's largest value.

    Args:
        outputs: for each output the expected order of its channels (on the axis that is as long); none: as they were.
        before: the network's outputs; None: it is run.

    Raises:
        AlignmentError: the network's output has NaN.
    """
    permuted = permute_module(model, groups, perms)  # first: a model may keep a state
    before = outputs_of(model, inputs) if before is None else before
    after = outputs_of(permuted, inputs)
    if any(tensor.isnan().any() for tensor in before):
        raise AlignmentError(
            "the network's output on the example input has NaN: check its weights and the example input."
        )
    errors = [0.0]
    for number, (expected, found) in enumerate(zip(before, after, strict=True)):
        order = outputs[number] if number < len(outputs) else None
        if order is not None:
            expected = expected.index_select(found.shape.index(len(order)), torch.from_numpy(order))
        errors.append(_relative_difference(expected, found))
    return max(errors)


def _relative_difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest finite value; infinities count where they are not the same."""
    if not one.numel() or not one.is_floating_point():
        return 0.0
    difference = torch.where(one == other, 0.0, one - other).abs().max()
    scale = torch.where(one.isfinite(), one, 0.0).abs().max().clamp_min(1e-300)
    return float((difference / scale).nan_to_num(float("inf"), float("inf")))
