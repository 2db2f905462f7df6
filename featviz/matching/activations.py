"""Activation matching (Li et al. 2015; Jordan et al. 2022): pair the units whose activations correlate most.

data through A and B once -> Pearson correlation (n, n) of every pair of units of a group, and its assignment.

A group is compared where it is read: at the input of every module with a weight matrix or kernel that consumes it (after
the nonlinearity, on all branches of a residual stream), or at module outputs where nothing named reads it. Correlations of
several such places are averaged. Moments are accumulated in float64 about the first batch's mean. A unit that never
varies correlates with nothing: its correlation is 0, and so are its score and margin. A group that no module shows (the
queries inside `nn.MultiheadAttention`) is matched by its weights, once all others are placed.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.data import Data, device_of, inputs_of
from featviz.errors import AlignmentError
from featviz.isolation import evaluation_mode
from featviz.matching.assignment import Floats, Matching, assign_blocks, block_scores, scores_of
from featviz.matching.weights import Evidence, progressive, weight_scores
from featviz.symmetry.groups import Index, LayerUnits, PermutationGroups
from featviz.tensors import tensors_of


@dataclass
class Moments:
    """Streaming first and second moments of two sets of n units: float64, shifted by the first batch's means."""

    count: int = 0
    shift_a: Tensor | None = None
    shift_b: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)  # a (n,), b (n,), a*a (n,), b*b (n,), a*b (n, n)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Samples (n, s) of both networks."""
        a, b = a.double(), b.double()
        if self.shift_a is None or self.shift_b is None:
            self.shift_a, self.shift_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        a, b = a - self.shift_a, b - self.shift_b
        new = [a.sum(1), b.sum(1), a.square().sum(1), b.square().sum(1), a @ b.T]
        self.sums = new if not self.sums else [old.add_(more) for old, more in zip(self.sums, new, strict=True)]
        self.count += a.shape[1]

    def correlation(self) -> Floats:
        """Pearson correlation (n, n); 0 for a unit without variance."""
        mean_a, mean_b, square_a, square_b, cross = self._means()
        deviations = []
        for mean, square, shift in ((mean_a, square_a, self.shift_a), (mean_b, square_b, self.shift_b)):
            variance = square - mean.square()
            assert shift is not None
            noise = 1e-12 * (square + shift.squeeze(1).square()) + 1e-30
            deviations.append(torch.where(variance > noise, variance, torch.inf).sqrt())
        covariance = cross - mean_a[:, None] * mean_b
        return (covariance / (deviations[0][:, None] * deviations[1])).clamp(-1, 1).cpu().numpy()

    def inner_product(self) -> tuple[Floats, Floats]:
        """E[a b] (n, n), nothing subtracted, and its cosine over the root mean squares; 0 for a unit that is always 0."""
        mean_a, mean_b, square_a, square_b, cross = self._means()
        assert self.shift_a is not None
        assert self.shift_b is not None
        a, b = self.shift_a.squeeze(1), self.shift_b.squeeze(1)
        inner = cross + mean_a[:, None] * b + a[:, None] * mean_b + a[:, None] * b
        squares = [
            square + 2 * shift * mean + shift**2
            for square, shift, mean in ((square_a, a, mean_a), (square_b, b, mean_b))
        ]
        norm_a, norm_b = (torch.where(square > 1e-30, square, torch.inf).sqrt() for square in squares)
        cosine = (inner / (norm_a[:, None] * norm_b)).clamp(-1, 1)
        return inner.cpu().numpy(), cosine.cpu().numpy()

    def _means(self) -> list[Tensor]:
        return [total / self.count for total in self.sums]


@dataclass(frozen=True)
class Reading:
    """Where a group is observed: a module's input (or output), and the channels of each element (n, copies)."""

    module: str
    is_input: bool
    axis: int
    channels: Index


def readings(model: nn.Module, groups: PermutationGroups) -> dict[str, list[Reading]]:
    """For every group the places at which its units are observed."""
    modules = dict(model.named_modules())
    found: dict[str, list[Reading]] = {}
    for number, group in enumerate(groups):
        consumers = [
            _reading(name, True, units, number, group.size)
            for name, units in groups.reads.items()
            if any(p.dim() > 1 for p in modules[name].parameters(recurse=False))
        ]
        places = [place for place in consumers if place is not None]
        if not places:
            outputs = [_reading(name, False, units, number, group.size) for name, units in groups.layers.items()]
            places = [place for place in outputs if place is not None][-1:]
        found[group.name] = places
    return found


def _reading(module: str, is_input: bool, units: LayerUnits, number: int, size: int) -> Reading | None:
    channels = np.flatnonzero(units.group == number)
    elements = units.element[channels]
    if (
        len(channels) == 0
        or len(channels) % size
        or (np.bincount(elements, minlength=size) != len(channels) // size).any()
    ):
        return None
    order = channels[np.argsort(elements, kind="stable")]
    return Reading(module, is_input, units.axis, order.reshape(size, -1))


class Observer:
    """Context: while it is open, every forward pass, in eval mode, leaves the tensors of the wanted places in `seen`.

    A module that is called several times in a pass leaves its first call, of which `groups.layers` and `reads` know the units.

    Args:
        wanted: (module name, whether its input rather than its output).
    """

    def __init__(self, model: nn.Module, wanted: Iterable[tuple[str, bool]]) -> None:
        self.seen: dict[tuple[str, bool], Tensor] = {}
        self._model = model
        self._wanted = set(wanted)
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
                self.seen[name, True] = tensors_of((args, kwargs))[0].clone()

        return hook

    def _keep_output(self, name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(_: nn.Module, args: tuple, output: object) -> None:
            if (name, False) not in self.seen:
                self.seen[name, False] = tensors_of(output)[0].clone()

        return hook


def for_every_sample(
    models: Sequence[nn.Module],
    places: Mapping[str, Sequence[Reading]],
    data: Data,
    take: Callable[[tuple[str, int], list[Tensor]], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """`take` gets (group, number of its place) and samples (n, s) of every network, on the first one's device, for every batch
    and place.

    Raises:
        AlignmentError: there is no data.
    """
    devices = [device_of(model) for model in models]
    batches = 0
    with torch.inference_mode(), ExitStack() as stack:
        wanted = [(place.module, place.is_input) for found in places.values() for place in found]
        observers = [stack.enter_context(Observer(model, wanted)) for model in models]
        for x in inputs_of(data, devices[0]):
            for model, device in zip(models, devices, strict=True):
                model(x.to(device))
            for group, found in places.items():
                for number, place in enumerate(found):
                    seen = [_samples(o.seen[place.module, place.is_input], place).to(devices[0]) for o in observers]
                    take((group, number), seen)
            batches += 1
            if progress:
                progress(batches, 0)
    if not batches:
        raise AlignmentError("activation matching got no data: `data` yielded no batch (a generator serves only once).")


def measure(
    models: Sequence[nn.Module],
    places: Mapping[str, Sequence[Reading]],
    data: Data,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[int, int], dict[str, list[Moments]]]:
    """Moments of every pair of networks, (0, 1), (0, 2), ...: one for each place of a group, in one pass over `data`.

    Raises:
        AlignmentError: there is no data.
    """
    pairs = list(itertools.combinations(range(len(models)), 2))
    moments = {pair: {group: [Moments() for _ in found] for group, found in places.items()} for pair in pairs}

    def take(key: tuple[str, int], samples: list[Tensor]) -> None:
        for one, other in pairs:
            moments[one, other][key[0]][key[1]].add(samples[one], samples[other])

    for_every_sample(models, places, data, take, progress)
    return moments


def match_activations(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    data: Data,
    progress: Callable[[int, int], None] | None = None,
    statistic: str = "correlation",
) -> Matching:
    """Match every group by its activations on `data`, in one pass.

    Args:
        statistic: "correlation" (Pearson's), or "inner": the inner product E[a b] of Git Re-Basin, nothing subtracted. It is
            what is assigned; scores and margins are its cosines, since the product itself has the units' scale.

    Raises:
        AlignmentError: there is no data, or an activation is not finite.
    """
    places = readings(model_a, groups)
    moments = measure((model_a, model_b), places, data, progress)[0, 1]
    perms: dict[str, Index] = {}
    found: dict[str, tuple[Floats, Floats]] = {}
    unseen = []
    for family in groups.families():
        units = [group for group in family if group.name != group.family]
        if not all(places[group.name] for group in units):
            unseen.append(family)
            continue
        similar = [_similarity(moments[group.name], statistic) for group in units]
        placed = assign_blocks([assigned for assigned, _ in similar], family[0].blocks, family[0].name)
        for group, (_, cosine), perm in zip(units, similar, placed, strict=True):
            perms[group.name], found[group.name] = perm, scores_of(cosine, perm)
        if units != list(family):
            perms[family[0].name] = placed[0].reshape(family[0].blocks, -1)[:, 0] // (units[0].size // family[0].blocks)
            found |= block_scores(family, found)
    if unseen:
        evidence = Evidence(model_a, model_b, groups)
        perms = progressive(evidence, unseen, perms)
        for family in unseen:
            found |= weight_scores(evidence, family, perms)
    scores, margins = ({name: pair[kind] for name, pair in found.items()} for kind in (0, 1))
    objective = float(sum(score.sum() for score in scores.values()))
    return Matching(perms, scores, margins, (objective,))


def _similarity(moments: Sequence[Moments], statistic: str) -> tuple[Floats, Floats]:
    """What is assigned, and the same in [-1, 1]: means over the places of a group."""
    if statistic == "correlation":
        correlation = np.mean([moment.correlation() for moment in moments], axis=0)
        return correlation, correlation
    inner, cosine = (np.mean(values, axis=0) for values in zip(*(m.inner_product() for m in moments), strict=True))
    return inner, cosine


def _samples(activation: Tensor, place: Reading) -> Tensor:
    """(n, samples) from a module's tensor with its unit axis anywhere."""
    rows = activation.movedim(place.axis, 0).flatten(1)
    picked = rows[torch.from_numpy(place.channels.reshape(-1)).to(rows.device)]
    return picked.reshape(len(place.channels), -1)
