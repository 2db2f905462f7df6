"""Repair a merged network's statistics, in place, from data.

The average of two matched units of correlation c has (1 + c) / 2 of their variance: layer by layer the signal fades.
`reset_batchnorm` measures running statistics afresh; `repair_channels` (REPAIR, Jordan et al. 2022) also rescales layers
without a norm. LayerNorm and GroupNorm hold no statistics: their affine parameters stay the average of the parents'. All
moments are pooled over the whole data in float64: no average of per-batch deviations.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from featviz.data import Data, device_of, inputs_of
from featviz.errors import AlignmentError
from featviz.isolation import evaluation_mode
from featviz.symmetry.groups import LayerUnits

Progress = Callable[[int, int], None] | None


class ChannelMoments:
    """Streaming mean and variance per channel, float64, shifted by the first batch's mean."""

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._sum = self._square = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor, axis: int) -> None:
        """Samples of a tensor whose channels lie along `axis`."""
        rows = x.detach().movedim(axis, 0).flatten(1).double()
        if not self.count:
            self._shift = rows.mean(1)
            self._sum = self._square = torch.zeros_like(self._shift)
        rows = rows - self._shift[:, None]
        self._sum = self._sum + rows.sum(1)
        self._square = self._square + rows.square().sum(1)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        return self._shift + self._sum / self.count

    @property
    def variance(self) -> Tensor:
        """Biased, as a norm divides by."""
        return (self._square / self.count - (self._sum / self.count).square()).clamp_min(0)


def has_batchnorm(model: nn.Module) -> bool:
    return bool(_norms(model))


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


def reset_batchnorm(model: nn.Module, data: Data, progress: Progress = None) -> None:
    """Give every BatchNorm layer the mean and unbiased variance of its input on `data`.

    Layers before it normalise with each batch's own statistics, as in training: use batches of 100 images or more, in random
    order (batches of one class each give statistics that serve no other).

    Raises:
        AlignmentError: there is no data.
    """
    with ExitStack() as stack:
        measured = stack.enter_context(_measuring_norms(model))
        _run(model, data, progress)
    _write_norms(model, measured)


def repair_channels(
    merged: nn.Module,
    model_a: nn.Module,
    model_b: nn.Module,
    weight: float,
    data: Data,
    layers: Mapping[str, LayerUnits] | None = None,
    progress: Progress = None,
    rows: Callable[[LayerUnits, int], NDArray[np.float64]] | None = None,
    shift: bool = True,
) -> None:
    """REPAIR: hidden layers with a bias get mean and deviation (1 - weight) * A's + weight * B's; BatchNorm is reset.

    Without `shift` it is RESCALE (Qu & Horvath 2024, arXiv 2402.05966): the factor that REPAIR gives a layer, goal deviation
    over its own, and no more. Weights and bias are multiplied by it, so that the mean becomes factor * mean. Of BatchNorm,
    for which that paper has no rule, only running_var is measured afresh; running_mean stays that of the merge, so that
    normalised inputs are scaled and not shifted.

    Where units are combined the goals are merge_A mean_A + merge_B mean_B, and |merge_A| deviation_A + |merge_B| deviation_B:
    the spread of the combination if its members varied together, which for a matched pair is the average.

    A convolution with a bias before a BatchNorm is corrected like any other; the norm, reset after it, takes no notice.
    LayerNorm and GroupNorm hold no statistics and are not touched.

    Args:
        merged: changed in place. `model_a`, `model_b`: its parents, B already in A's basis.
        layers: units of every module, from the alignment; layers whose units may not move (logits) are left alone.
        rows: a layer's units, 0 for A or 1 for B -> what they are made of, (width, width); needs `layers`.

    Raises:
        AlignmentError: there is no data.
    """
    chosen = _correctable(merged, layers)
    parents = []
    for parent in (model_a, model_b):
        with _measuring(parent, chosen) as moments:
            _run(parent, data, progress)
        parents.append(moments)
    goals = {}
    for name in chosen:
        (mean_a, mean_b), (spread_a, spread_b) = (
            [getattr(moments[name], what) ** power for moments in parents]
            for what, power in (("mean", 1), ("variance", 0.5))
        )
        if rows is None or layers is None:
            goals[name] = [(1 - weight) * mean_a + weight * mean_b, (1 - weight) * spread_a + weight * spread_b]
        else:
            a, b = (torch.from_numpy(matrix).to(mean_a) for matrix in (rows(layers[name], 0), rows(layers[name], 1)))
            goals[name] = [a @ mean_a + b @ mean_b, a.abs() @ spread_a + b.abs() @ spread_b]
    with ExitStack() as stack:
        norms = stack.enter_context(_measuring_norms(merged, shift))
        own = stack.enter_context(_measuring(merged, chosen, goals, shift))
        _run(merged, data, progress)
    _write_norms(merged, norms, shift)
    modules = dict(merged.named_modules())
    for name in chosen:
        mean, deviation = goals[name]
        ratio, offset = _correction(own[name], mean, deviation, shift)
        _fuse(modules[name], ratio, offset)


def _correctable(model: nn.Module, layers: Mapping[str, LayerUnits] | None) -> dict[str, int]:
    """Hidden layers with weights and a bias, and their unit axis."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    found = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and m.bias is not None}
    if layers is None:
        names = list(found)[:-1]  # the last one gives the logits
        return {name: -1 if isinstance(found[name], nn.Linear) else 1 for name in names}
    return {name: layers[name].axis for name in found if name in layers and (layers[name].group >= 0).all()}


@contextmanager
def _measuring(
    model: nn.Module, chosen: Mapping[str, int], goals: Mapping[str, list[Tensor]] | None = None, shift: bool = True
):
    """Moments of the outputs of `chosen`; given goals, each batch goes on with exactly those (mean and) deviation."""
    moments = {name: ChannelMoments() for name in chosen}

    def hook_for(name: str):
        axis = chosen[name]

        def hook(_: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            del args
            moments[name].add(output, axis)
            if goals is None:
                return None
            batch = ChannelMoments()
            batch.add(output, axis)
            mean, deviation = goals[name]
            ratio, offset = _correction(batch, mean, deviation, shift)
            shape = [1] * output.dim()
            shape[axis] = -1
            return output * ratio.to(output).view(shape) + offset.to(output).view(shape)

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook_for(name)) for name in chosen]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _correction(measured: ChannelMoments, mean: Tensor, deviation: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Factor and offset that bring the measured moments to the goal; a channel that never varies is only shifted."""
    own = measured.variance.sqrt()
    ratio = torch.where(own > 1e-8 * deviation.clamp_min(1e-30), deviation / own.clamp_min(1e-30), 1.0)
    return ratio, mean - ratio * measured.mean if shift else torch.zeros_like(ratio)


def _fuse(module: nn.Module, ratio: Tensor, offset: Tensor) -> None:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        weight.mul_(ratio.to(weight).view(-1, *(1,) * (weight.dim() - 1)))
        bias.copy_(bias.double() * ratio + offset)


@contextmanager
def _measuring_norms(model: nn.Module, shift: bool = True):
    """Moments of the inputs of every BatchNorm layer, which normalises by batch meanwhile and keeps its own statistics.

    Without `shift` it normalises by its own running mean and the batch's variance.
    """
    norms = _norms(model)
    moments = {name: ChannelMoments() for name in norms}

    def hook_for(name: str):
        return lambda _, args: moments[name].add(args[0], 1)

    def scaled(norm: _BatchNorm, args: tuple, output: Tensor) -> Tensor:
        del output
        (x,) = args
        variance = x.movedim(1, 0).flatten(1).var(1, correction=0)
        return F.batch_norm(x, statistics[id(norm)][0], variance, norm.weight, norm.bias, False, 0.0, norm.eps)

    handles = [norm.register_forward_pre_hook(hook_for(name)) for name, norm in norms.items()]
    handles += [] if shift else [norm.register_forward_hook(scaled) for norm in norms.values()]
    statistics = {id(norm): (norm.running_mean, norm.running_var) for norm in norms.values()}
    try:
        for norm in norms.values():
            norm.running_mean = norm.running_var = None  # by batch, nothing to update
        yield moments
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms.values():
            norm.running_mean, norm.running_var = statistics[id(norm)]


def _write_norms(model: nn.Module, moments: Mapping[str, ChannelMoments], shift: bool = True) -> None:
    for name, norm in _norms(model).items():
        if name in moments and moments[name].count:
            count = moments[name].count
            assert norm.running_mean is not None
            assert norm.running_var is not None
            if shift:
                norm.running_mean.copy_(moments[name].mean)
            norm.running_var.copy_(moments[name].variance * count / max(1, count - 1))


def _run(model: nn.Module, data: Data, progress: Progress) -> None:
    batches = 0
    with evaluation_mode(model), torch.no_grad():
        for x in inputs_of(data, device_of(model)):
            model(x)
            batches += 1
            if progress:
                progress(batches, 0)
    if not batches:
        raise AlignmentError("the repair got no data: `data` yielded no batch (a generator serves only once).")
