"""Where the units of a group are observed, and what they do there on data.

networks, groups -> the sites of every group: the inputs of all modules with a weight matrix or kernel that consume it (after
the nonlinearity, on all branches of a residual stream); module outputs where no such module consumes it. A group that no named
module shows (the queries inside `nn.MultiheadAttention`) has no site.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.data import device_of
from featviz.errors import AlignmentError
from featviz.failures import run_network
from featviz.isolation import evaluation_mode, weight_sharing_copy
from featviz.matching.problem import MatchingProblem
from featviz.moments import Moments, Pairs
from featviz.subjects import normalized_inputs
from featviz.symmetry.groups import Index, LayerUnits, PermutationGroups
from featviz.weights.tensors import tensors_of

WIDE = 128  # units; the products of a wider group are most of what matching by activations costs


@dataclass(frozen=True)
class ActivationSite:
    """A module's input (or output), the axis of its channels, and the channels of each element of the group (n, copies)."""

    module: str
    is_input: bool
    axis: int
    channels: Index

    def samples(self, rows: Tensor) -> Tensor:
        """(sample, unit) from (channel, image and position); every copy of an element, image and position is a sample."""
        own = self.channels.reshape(-1)
        if len(own) < len(rows) or (np.diff(own) != 1).any():  # most sites show all units of a group, in order
            rows = rows[torch.from_numpy(own).to(rows.device)]
        return rows.reshape(len(self.channels), -1).T


def activation_sites(model: nn.Module, groups: PermutationGroups) -> dict[str, list[ActivationSite]]:
    """For every group the sites at which its units are observed."""
    modules = dict(model.named_modules())
    found: dict[str, list[ActivationSite]] = {}
    for number, group in enumerate(groups):
        inputs = [
            _site(name, True, units, number, group.size)
            for name, units in groups.reads.items()
            if any(p.dim() > 1 for p in modules[name].parameters(recurse=False))
        ]
        sites = [site for site in inputs if site is not None]
        if not sites:
            outputs = [_site(name, False, units, number, group.size) for name, units in groups.layers.items()]
            sites = [site for site in outputs if site is not None][-1:]
        found[group.name] = sites
    return found


def _site(module: str, is_input: bool, units: LayerUnits, number: int, size: int) -> ActivationSite | None:
    """The site of group `number` at a module; None where the module does not show every element equally often."""
    channels = np.flatnonzero(units.group == number)
    elements = units.element[channels]
    if (
        len(channels) == 0
        or len(channels) % size
        or (np.bincount(elements, minlength=size) != len(channels) // size).any()
    ):
        return None
    order = channels[np.argsort(elements, kind="stable")]
    return ActivationSite(module, is_input, units.axis, order.reshape(size, -1))


class Observer:
    """Context: while it is open, every forward pass, in eval mode, leaves the wanted modules' tensors in `seen`.

    A module that is called several times in a pass leaves its first call, of which `groups.layers` and `reads` know the units.

    Args:
        wanted: (module name, whether its input rather than its output).
        keep: (an item of `wanted`, the tensor) -> a new tensor that is left in its place; None: a copy.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Iterable[tuple[str, bool]],
        keep: Callable[[tuple[str, bool], Tensor], Tensor] | None = None,
    ) -> None:
        self.seen: dict[tuple[str, bool], Tensor] = {}
        self._model = model
        self._wanted = set(wanted)
        self._keep = keep or (lambda _, tensor: tensor.clone())
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Observer":
        modules = dict(self._model.named_modules())
        self._handles.append(self._model.register_forward_pre_hook(lambda *_: self.seen.clear()))
        for name, is_input in self._wanted:
            if is_input:
                hook = self._keep_input(name)
                self._handles.append(modules[name].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(modules[name].register_forward_hook(self._keep_output(name)))
        self._mode = evaluation_mode(self._model)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._mode.__exit__(*error)

    def _keep_input(self, name: str) -> Callable[[nn.Module, tuple, dict], None]:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if (name, True) not in self.seen:
                self.seen[name, True] = self._keep((name, True), tensors_of((args, kwargs))[0])

        return hook

    def _keep_output(self, name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(_: nn.Module, args: tuple, output: object) -> None:
            if (name, False) not in self.seen:
                self.seen[name, False] = self._keep((name, False), tensors_of(output)[0])

        return hook


def rows_of_positions(activation: Tensor, axis: int, positions: int, first: int) -> Tensor:
    """A copy (channel, image and position) of a tensor with its channels along `axis`, at some of every image's positions.

    Args:
        positions: at most so many of an image, evenly spaced in reading order; 0: all.
        first: the number of the grid: grids of consecutive numbers differ by one position.
    """
    rows = activation.movedim(axis, 0)
    rows = rows.reshape(len(rows), rows.shape[1] if rows.dim() > 1 else 1, -1)
    every = -(-rows.shape[2] // positions) if positions else 1
    rows = rows[:, :, first % every :: every]
    return rows.clone(memory_format=torch.contiguous_format).flatten(1)


def measure_moments(
    problem: MatchingProblem,
    sites: Mapping[str, Sequence[ActivationSite]],
    crossed: Pairs,
    positions: int = 0,
    wide: torch.dtype = torch.float64,
) -> dict[str, list[Moments]]:
    """Moments of every group at each of its sites, in one pass over the problem's data; set k of them are network k's units.

    Sites of a group that show the same map (two convolutions that read it) are one.

    Args:
        crossed: pairs of networks; the covariance of every unit of one with every unit of the other is measured.
        positions: of every image at every site, as in `rows_of_positions`.
        wide: the dtype in which the products of one batch are summed for groups of more than `WIDE` units (`Moments`); where
            there are fewer, it is float64, which costs nothing there.

    Raises:
        AlignmentError: there is no data.
        DataError: the data cannot be fed to all networks (`subjects.normalized_inputs`, `run_network`).
    """
    models, crossed = [weight_sharing_copy(model) for model in problem.models], list(crossed)
    moments: dict[str, list[Moments]] = {}
    names = [{}, *(problem.names_in_b for _ in models[1:])]
    devices = [device_of(model) for model in models]
    axes = {(site.module, site.is_input): site.axis for found in sites.values() for site in found}
    batches = 0

    def observer_of(model: nn.Module, own: Mapping[str, str]) -> Observer:
        renamed = {(own.get(name, name), is_input): axis for (name, is_input), axis in axes.items()}
        return Observer(model, renamed, lambda at, x: rows_of_positions(x, renamed[at], positions, batches))

    with torch.inference_mode(), ExitStack() as stack:
        observers = [stack.enter_context(observer_of(model, own)) for model, own in zip(models, names, strict=True)]
        for inputs in normalized_inputs(
            () if problem.data is None else problem.data, problem.subjects or models, devices[0]
        ):
            for model, device, x in zip(models, devices, inputs, strict=True):
                run_network(model, x.to(device))
            if not batches:
                sites = {group: _different(found, observers[0].seen) for group, found in sites.items()}
                moments = {group: _moments(found, crossed, wide) for group, found in sites.items()}
            for group, found in sites.items():
                for site, total in zip(found, moments[group], strict=True):
                    seen = [
                        observer.seen[own.get(site.module, site.module), site.is_input]
                        for observer, own in zip(observers, names, strict=True)
                    ]
                    total.add(*(site.samples(tensor).to(devices[0]) for tensor in seen))
            batches += 1
            if problem.progress:
                problem.progress(batches, 0)
    if not batches:
        raise AlignmentError("activation matching got no data: `data` yielded no batch (a generator serves only once).")
    return moments


def _moments(sites: Sequence[ActivationSite], crossed: Pairs, wide: torch.dtype) -> list[Moments]:
    """Of one group, at each of its sites."""
    return [Moments(crossed=crossed, dtype=wide if len(site.channels) > WIDE else torch.float64) for site in sites]


def _different(sites: Sequence[ActivationSite], seen: Mapping[tuple[str, bool], Tensor]) -> list[ActivationSite]:
    """The sites of a group without those at which the same map was seen as at an earlier one."""
    kept: list[ActivationSite] = []
    for site in sites:
        samples = site.samples(seen[site.module, site.is_input])
        if not any(torch.equal(samples, other.samples(seen[other.module, other.is_input])) for other in kept):
            kept.append(site)
    return kept
