"""Permutation groups of a network: which units may be exchanged, and what moves with each.

network, example input -> `PermutationGroups`. The trace of `labels.py` ties slots into classes; two classes are
exchangeable if and only if they own as many slots of the same parameter axes and carry the same tags, and those orbits
are the groups. Every group is then tried on a float64 copy of the network: one that changes the function is demoted.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from featviz.algebra.labels import EQUAL, FIXED, Site, SlotAxis, Trace, tensors_of, trace_labels, varies
from featviz.algebra.operators import propagate
from featviz.errors import AlignmentError, ModelError

Index = NDArray[np.int64]

TOLERANCE = 1e-9  # relative error in float64 above which a permutation changes the function


@dataclass(frozen=True)
class GroupAxis:
    """The coordinates of one parameter axis that move with a group.

    `index` (size, multiplicity): row i is what unit i owns. In a grouped convolution `block` counts the block of outputs.
    """

    parameter: str
    axis: int
    block: int | None
    blocks: int
    index: Index


@dataclass(frozen=True)
class Group:
    """Units that are interchangeable with each other, named after the first parameter that produces them."""

    name: str
    size: int
    axes: tuple[GroupAxis, ...]


@dataclass(frozen=True)
class LayerUnits:
    """The units of one module's output: unit u is element `element[u]` of group `group[u]` (-1: it may not move)."""

    width: int
    axis: int
    group: Index
    element: Index


@dataclass(frozen=True)
class Pinned:
    """Slots of a parameter axis that may not move, and why."""

    parameter: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True)
class PermutationGroups:
    """All groups of a network, the units of its modules, and what could not be set free.

    `layers` and `reads` hold the units of every named module's output and of its first input; `unknown` names the
    operators without a rule and the module where each first occurred.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, LayerUnits]
    reads: Mapping[str, LayerUnits]
    pinned: tuple[Pinned, ...]
    unknown: Mapping[str, str]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def sizes(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

    def modules(self, group: str) -> list[str]:
        """The modules whose output carries units of this group, in the order of the forward pass."""
        number = [g.name for g in self.groups].index(group)
        return [name for name, units in self.layers.items() if (units.group == number).any()]


def permutation_groups(model: nn.Module, example_input: object, *, verify: bool = True) -> PermutationGroups:
    """Find every group of units that can be permuted without changing the network's function.

    Args:
        model: any feed-forward network that runs on `example_input`; it is left as it was.
        example_input: a batch (one example is enough and fastest), or a tuple of arguments.
        verify: try one random permutation in float64 with random norm statistics; a group that changes the output is
            left out and reported in `pinned`.

    Raises:
        ModelError: the network does not run on the example input, or returns no tensor.
    """
    try:
        trace = trace_labels(*_private(model, example_input, torch.float32), propagate)
    except ModelError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(example_input))
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the network does not run on the example input of shape {shapes} ({reason}): "
            "give an example_input of the shape that the network expects."
        ) from error
    found = _solve(trace)
    return verified(model, example_input, found) if verify else found


def _solve(trace: Trace) -> PermutationGroups:
    classes, reasons = _classes(trace)
    kinds, coordinates = _slot_table(trace.axes, trace.labels)
    free = np.ones(classes.max() + 1, dtype=bool)
    free[list(reasons)] = False
    members = _orbits(classes, kinds, coordinates, free, _tag_sets(trace, classes))
    place = np.full((classes.max() + 1, 2), -1, dtype=np.int64)
    groups: list[Group] = []
    for orbit, slots in members:
        axes = []
        for kind in dict.fromkeys(kinds[slots[0]].tolist()):
            columns = kinds[slots[0]] == kind
            source = trace.axes[kind]
            if source.parameter.startswith(EQUAL):
                continue
            axes.append(
                GroupAxis(source.parameter, source.axis, source.block, source.blocks, coordinates[slots[:, columns]])
            )
        if axes:
            place[orbit] = np.stack([np.full(len(orbit), len(groups)), np.arange(len(orbit))], 1)
            groups.append(Group(_name(axes[0], groups), len(orbit), tuple(axes)))
    layers = {name: units for name, site in trace.outputs.items() if (units := _units(site, classes, place))}
    reads = {name: units for name, site in trace.inputs.items() if (units := _units(site, classes, place))}
    pinned = []
    for number, axis in enumerate(trace.axes):
        held = [c for c in classes[kinds == number] if not free[c]]
        if held and not axis.parameter.startswith(EQUAL):
            pinned.append(Pinned(axis.parameter, axis.axis, len(held), reasons[held[0]]))
    return PermutationGroups(tuple(groups), layers, reads, tuple(pinned), trace.unknown)


def _classes(trace: Trace) -> tuple[Index, dict[int, str]]:
    """The class of every label under the ties, and why a class is pinned where it is."""
    ties = torch.cat([torch.zeros(2, 1, dtype=torch.long), *trace.ties], 1).numpy()
    one, other = ties[:, (ties != FIXED).all(0)]
    ones = np.ones(len(one), dtype=np.int8)
    graph = coo_matrix((ones, (one, other)), shape=(trace.labels, trace.labels))
    classes = connected_components(graph, directed=False)[1].astype(np.int64)
    reasons = {int(classes[FIXED]): "fixed"}
    for labels, why in trace.pins:
        for number in classes[labels.numpy()].tolist():
            reasons.setdefault(number, why)
    meets_fixed = ties[:, (ties == FIXED).any(0)].max(0)
    for number in classes[meets_fixed].tolist():
        reasons.setdefault(number, "joined with a fixed element")
    return classes, reasons


def _slot_table(axes: list[SlotAxis], labels: int) -> tuple[Index, Index]:
    """For every label the number of its parameter axis and its coordinate on it."""
    kinds, coordinates = np.full(labels, -1, dtype=np.int64), np.zeros(labels, dtype=np.int64)
    for number, axis in enumerate(axes):
        span = slice(axis.first, axis.first + axis.length)
        kinds[span], coordinates[span] = number, np.arange(axis.length)
    return kinds, coordinates


def _tag_sets(trace: Trace, classes: Index) -> dict[int, tuple[int, ...]]:
    """For every class the sets that it must stay in."""
    sets: dict[int, set[int]] = {}
    for labels, numbers in trace.tags:
        pairs = np.unique(np.stack([classes[labels.numpy()], numbers.numpy()]), axis=1)
        for number, tag in pairs.T.tolist():
            sets.setdefault(number, set()).add(tag)
    return {number: tuple(sorted(tags)) for number, tags in sets.items()}


def _orbits(
    classes: Index, kinds: Index, coordinates: Index, free: NDArray[np.bool_], tags: dict[int, tuple[int, ...]]
) -> list[tuple[Index, Index]]:
    """Exchangeable classes of two or more: (class numbers (n,), their slots (n, slots per class)), slots in parallel."""
    slots = np.flatnonzero((kinds >= 0) & free[classes])
    slots = slots[np.lexsort((coordinates[slots], kinds[slots], classes[slots]))]
    if not len(slots):
        return []
    starts = np.flatnonzero(np.r_[True, np.diff(classes[slots]) > 0])
    alike: dict[tuple, list[Index]] = {}
    for own in np.split(slots, starts[1:]):
        signature = (kinds[own].tobytes(), tags.get(int(classes[own[0]]), ()))
        alike.setdefault(signature, []).append(own)
    orbits = [np.stack(members) for members in alike.values() if len(members) > 1]
    orbits = [slots[np.argsort(coordinates[slots[:, 0]], kind="stable")] for slots in orbits]
    orbits.sort(key=lambda slots: int(slots.min()))
    return [(classes[slots[:, 0]], slots) for slots in orbits]


def _name(axis: GroupAxis, groups: list[Group]) -> str:
    base = axis.parameter.rpartition(".")[0] or axis.parameter
    taken = {group.name for group in groups}
    names = [base, *(f"{base}#{number}" for number in range(2, len(groups) + 3))]
    return next(name for name in names if name not in taken)


def _units(site: Site, classes: Index, place: Index) -> LayerUnits | None:
    """Group and element of each unit along the site's channel axis; None where units are not one axis."""
    if not site.shape or site.shape[site.channel_axis] < 1:
        return None
    width = site.shape[site.channel_axis]
    group, element = np.full(width, -1, dtype=np.int64), np.full(width, -1, dtype=np.int64)
    for factor in site.factors:
        if varies(factor) - {site.channel_axis}:
            if site.channel_axis in varies(factor):
                return None
            continue
        labels = factor.reshape(-1).numpy()
        found = place[classes[labels]]
        found[labels == FIXED] = -1
        group, element = found[:, 0].copy(), found[:, 1].copy()
    return LayerUnits(width, site.channel_axis, group, element)


def _private(model: nn.Module, example_input: object, dtype: torch.dtype) -> tuple[nn.Module, tuple]:
    """A copy of the network on the CPU in eval mode, and the arguments for it, with all floats in `dtype`."""

    def moved(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        return value.detach().to("cpu", dtype if value.is_floating_point() else None)

    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    return copy.deepcopy(model).to("cpu", dtype).eval(), tuple(moved(value) for value in inputs)


def verified(model: nn.Module, example_input: object, found: PermutationGroups) -> PermutationGroups:
    """Leave out every group whose random permutation changes the network's output (float64, random norm statistics)."""
    if not found.groups:
        return found
    trial, inputs = _private(model, example_input, torch.float64)
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
    from featviz.algebra.permutation import permute_module

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
