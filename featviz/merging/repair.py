"""REPAIR and RESCALE: bring the hidden layers of a merged network to the statistics of its parents, in place, from data.

The average of two matched units of correlation c has (1 + c) / 2 of their variance, so that the signal fades layer by layer.
REPAIR (Jordan et al. 2022) gives every hidden layer with a bias the average mean and deviation of its parents; BatchNorm layers
are measured afresh. LayerNorm and GroupNorm hold no statistics: their parameters stay the average of the parents'.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featviz.data import Data
from featviz.isolation import weight_sharing_copy
from featviz.merging.batchnorm import Progress, measure_norm_inputs, run_batches, write_running_statistics
from featviz.moments import Moments, samples_of
from featviz.subjects import Subject, as_subject
from featviz.symmetry.groups import LayerUnits

Rows = Callable[[LayerUnits, int], NDArray[np.float64]]
REPAIRABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class _Goal:
    """What the output of a layer shall have: mean and standard deviation of each unit, (unit,)."""

    mean: Tensor
    deviation: Tensor
    scale_only: bool

    def correction(self, measured: Moments) -> tuple[Tensor, Tensor]:
        """Factor and offset (unit,) that bring measured moments here; a unit that never varies keeps its scale."""
        own = measured.variance().sqrt()
        varies = own > 1e-8 * self.deviation.clamp_min(1e-30)
        factor = torch.where(varies, self.deviation / own.clamp_min(1e-30), 1.0)
        offset = torch.zeros_like(factor) if self.scale_only else self.mean - factor * measured.mean()
        return factor, offset


def repair_channels(
    merged: nn.Module,
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    weight: float,
    data: Data,
    layers: Mapping[str, LayerUnits] | None = None,
    progress: Progress = None,
    rows: Rows | None = None,
    shift: bool = True,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """REPAIR: hidden layers with a bias get mean and deviation (1 - weight) * A's + weight * B's; BatchNorm is reset.

    Without `shift` it is RESCALE (Qu & Horvath 2024, arXiv 2402.05966): the factor that REPAIR gives a layer, goal deviation
    over its own, and no more. Weights and bias are multiplied by it, so that the mean becomes factor * mean. Of BatchNorm,
    for which that paper has no rule, only running_var is measured afresh; running_mean stays that of the merge, so that
    normalised inputs are scaled and not shifted.

    Where units are combined the goals are merge_A mean_A + merge_B mean_B, and |merge_A| deviation_A + |merge_B| deviation_B:
    the deviation of the combination if its members varied together, which for a matched pair is the average.

    A layer that a parent does not call, such as the output of `nn.MultiheadAttention`, which takes its weights, is left alone.
    A convolution with a bias before a BatchNorm is corrected like any other, which the norm, reset after it, undoes.

    Args:
        merged: changed in place.
        model_a, model_b: its parents, B already in A's basis; left as they were.
        weight: of B, in [0, 1].
        data: batches `x` or `(x, label)`; iterated three times.
        layers: units of every module, from the alignment; layers whose units may not move (logits) are left alone. None:
            every layer but the last.
        progress: called with (batches done, 0).
        rows: a layer's units, 0 for A or 1 for B -> what merged units are made of, (width, width); needs `layers`.
        shift: correct means too.
        names: of the modules that may be corrected: in the merge -> in A and in B, where they have other names; None: all, of
            one name everywhere.

    Raises:
        BatchError: there is no data.
    """
    if names is not None and layers is not None:  # of the alignment, by A's names
        layers = {name: layers[a] for name, (a, _) in names.items() if a in layers}
    axes = _repairable_layers(merged, layers)
    axes = {name: axis for name, axis in axes.items() if names is None or name in names}
    measured = []
    for number, subject in enumerate((as_subject(model_a), as_subject(model_b))):
        parent = replace(subject, model=weight_sharing_copy(subject.model))
        axes_of_parent = {name if names is None else names[name][number]: axis for name, axis in axes.items()}
        with _measure_outputs(parent.model, axes_of_parent) as moments:
            run_batches(parent, data, progress)
        measured.append(dict(zip(axes, moments.values(), strict=True)))
    axes = {name: axis for name, axis in axes.items() if all(moments[name].count for moments in measured)}
    goals = {}
    for name in axes:
        (mean_a, deviation_a), (mean_b, deviation_b) = (
            (moments[name].mean(), moments[name].variance().sqrt()) for moments in measured
        )
        if rows is None or layers is None:
            mean = (1 - weight) * mean_a + weight * mean_b
            deviation = (1 - weight) * deviation_a + weight * deviation_b
        else:
            a, b = (torch.from_numpy(rows(layers[name], parent)).to(mean_a) for parent in (0, 1))
            mean, deviation = a @ mean_a + b @ mean_b, a.abs() @ deviation_a + b.abs() @ deviation_b
        goals[name] = _Goal(mean, deviation, not shift)
    with measure_norm_inputs(merged, keep_means=not shift) as norms, _measure_outputs(merged, axes, goals) as own:
        run_batches(merged, data, progress)
    write_running_statistics(merged, norms, keep_means=not shift)
    for name, goal in goals.items():
        _fuse(merged.get_submodule(name), *goal.correction(own[name]))


def _repairable_layers(model: nn.Module, layers: Mapping[str, LayerUnits] | None) -> dict[str, int]:
    """Hidden layers with weights and a bias, and the axis of their units."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, REPAIRABLE) and m.bias is not None}
    if layers is None:
        names = list(found)[:-1]  # the last one gives the logits
        return {name: -1 if isinstance(found[name], nn.Linear) else 1 for name in names}
    return {name: layers[name].axis for name in found if name in layers and (layers[name].group >= 0).all()}


@contextmanager
def _measure_outputs(
    model: nn.Module, axes: Mapping[str, int], goals: Mapping[str, _Goal] | None = None
) -> Iterator[dict[str, Moments]]:
    """Moments of the outputs of layers while this is open; given goals, each batch goes on with exactly those moments."""
    moments = {name: Moments() for name in axes}

    def hook_of(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        axis = axes[name]

        def hook(_: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            del args
            batch = Moments()
            batch.add(samples_of(output, axis))
            moments[name].merge(batch)
            if goals is None:
                return None
            factor, offset = goals[name].correction(batch)
            shape = [1] * output.dim()
            shape[axis] = -1
            return output * factor.to(output).view(shape) + offset.to(output).view(shape)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in axes]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _fuse(module: nn.Module, factor: Tensor, offset: Tensor) -> None:
    """Let the layer compute factor * output + offset."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        weight.mul_(factor.to(weight).view(-1, *(1,) * (weight.dim() - 1)))
        bias.copy_(bias.double() * factor + offset)
