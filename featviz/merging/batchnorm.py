"""The running statistics of BatchNorm layers, measured afresh on data.

Averaging two networks shrinks the variance of their activations, layer by layer, so that the averaged running statistics belong
to no network. `reset_batchnorm` replaces them by those of the merged network itself (Izmailov et al. 2018; Jordan et al. 2022).
Statistics are pooled over all data in float64: no average of per-batch deviations.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featviz.data import Data, device_of
from featviz.errors import AlignmentError
from featviz.failures import run_network
from featviz.isolation import evaluation_mode
from featviz.moments import Moments, samples_of
from featviz.subjects import Subject, as_subject, normalized_inputs

Progress = Callable[[int, int], None] | None


def batchnorm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """BatchNorm layers that keep running statistics, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


def has_batchnorm(model: nn.Module) -> bool:
    """Whether a layer of the network keeps running statistics."""
    return bool(batchnorm_layers(model))


def check_batchnorm_repair(repair: str, model: nn.Module, data: Data | None, what: str) -> None:
    """Raise AlignmentError where `repair` of `what` is not "auto", "none", or a "batchnorm" that can be done."""
    if repair not in ("auto", "none", "batchnorm"):
        raise AlignmentError(f"there is no repair {repair!r} for {what}: use 'batchnorm', 'none' or 'auto'.")
    if repair == "batchnorm" and (data is None or not has_batchnorm(model)):
        raise AlignmentError("repair 'batchnorm' needs BatchNorm layers and data=...: use repair='none' without them.")


def reset_batchnorm(model: nn.Module | Subject, data: Data, progress: Progress = None) -> None:
    """Give every BatchNorm layer the mean and unbiased variance of its input on `data`.

    Layers before it normalise with each batch's own statistics, as in training: use batches of 100 images or more, in random
    order (batches of one class each give statistics that serve no other).

    Args:
        model: changed in place, in its running statistics alone.
        data: batches `x` or `(x, label)`, images in [0, 1]; iterated once.
        progress: called with (batches done, 0).

    Raises:
        BatchError: there is no data.
    """
    subject = as_subject(model)
    with measure_norm_inputs(subject.model) as measured:
        run_batches(subject, data, progress)
    write_running_statistics(subject.model, measured)


@contextmanager
def measure_norm_inputs(model: nn.Module, keep_means: bool = False) -> Iterator[dict[str, Moments]]:
    """Moments of the inputs of every BatchNorm layer, by its name, of all forward passes while this is open.

    Meanwhile each layer normalises by the batch's mean and variance, and its own statistics are left as they were.

    Args:
        keep_means: normalise by the layer's running mean, and by the batch's variance alone.
    """
    norms = batchnorm_layers(model)
    moments = {name: Moments() for name in norms}
    statistics = {norm: (norm.running_mean, norm.running_var) for norm in norms.values()}

    def measure(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: moments[name].add(samples_of(args[0], 1))

    def normalise_variance(norm: _BatchNorm, args: tuple[Tensor, ...]) -> None:
        norm.running_mean = statistics[norm][0]
        norm.running_var = args[0].movedim(1, 0).flatten(1).var(1, correction=0)

    handles = [norm.register_forward_pre_hook(measure(name)) for name, norm in norms.items()]
    if keep_means:
        handles += [norm.register_forward_pre_hook(normalise_variance) for norm in norms.values()]
    try:
        for norm in norms.values():
            norm.running_mean = norm.running_var = None  # torch then normalises by the batch, in evaluation mode too
        yield moments
    finally:
        for handle in handles:
            handle.remove()
        for norm, (mean, variance) in statistics.items():
            norm.running_mean, norm.running_var = mean, variance


def write_running_statistics(model: nn.Module, moments: Mapping[str, Moments], keep_means: bool = False) -> None:
    """Write the measured means and unbiased variances, where a layer was measured; variances alone with `keep_means`."""
    with torch.no_grad():
        for name, norm in batchnorm_layers(model).items():
            measured = moments[name]
            if not measured.count:
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            if not keep_means:
                norm.running_mean.copy_(measured.mean())
            norm.running_var.copy_(measured.variance() * measured.count / max(1, measured.count - 1))


def run_batches(model: nn.Module | Subject, data: Data, progress: Progress) -> None:
    """Feed all data to the network, normalized for it, in evaluation mode and without gradients.

    Raises:
        BatchError: there is no data.
        DataError: the network fails on the images.
    """
    network = as_subject(model).model
    with evaluation_mode(network), torch.no_grad():
        for number, (x,) in enumerate(normalized_inputs(data, [model], device_of(network))):
            run_network(network, x)
            if progress:
                progress(number + 1, 0)
