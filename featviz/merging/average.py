"""Weighted averages of networks of one architecture, parameter by parameter.

    average([a, b], [0.7, 0.3])        # 0.7 * A + 0.3 * B in every floating-point parameter and buffer

Whole numbers (`num_batches_tracked`) are taken from the first network: an average of them has no meaning.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from featviz.isolation import copy_of
from featviz.subjects import Subject, known_normalization, remember_normalization
from featviz.weights.tensors import named_tensors

log = logging.getLogger("featviz")


def average(models: Sequence[nn.Module], weights: Sequence[float] | None = None) -> nn.Module:
    """The weighted average of networks, as a copy of the first.

    Args:
        models: networks of one architecture, in one basis; left as they were.
        weights: one per network, with the sum 1; None: all equal. Weights below 0 and above 1 are allowed.

    Returns:
        A network in which a weight of 1 beside zeros gives that network exactly, and equal networks give themselves.
    """
    if weights is None:
        weights = [1 / len(models)] * len(models)
    merged = copy_of(models[0])
    write_average(merged, [named_tensors(model) for model in models], weights)
    return merged


def write_average(model: nn.Module, tensors: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> None:
    """Set every floating-point tensor of `model` to the weighted average of those of its name.

    As sum(weights) = 1, the average is what has the largest weight plus weighted differences to it: exact for weights 0 and 1.
    """
    largest = max(range(len(tensors)), key=weights.__getitem__)
    others = [(tensors[number], weights[number]) for number in range(len(tensors)) if number != largest]
    write_sum_of_differences(model, tensors[largest], others)


def write_sum_of_differences(
    model: nn.Module, base: Mapping[str, Tensor], others: Sequence[tuple[Mapping[str, Tensor], float]]
) -> None:
    """Set every floating-point tensor of `model` to base + sum over others of weight * (other - base).

    Equal values, infinite ones included, have the difference 0. Half precision is summed in float32. Running variances never
    fall below the smallest that goes in, so that they stay positive for weights below 0.
    """
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            start = base[name].to(tensor.device, dtype)
            total, lowest = start.clone(), start
            for other, weight in others:
                if weight:
                    value = other[name].to(tensor.device, dtype)
                    total += weight * torch.where(value == start, torch.zeros_like(start), value - start)
                    if name.endswith("running_var"):
                        lowest = torch.minimum(lowest, value)
            tensor.copy_(torch.maximum(total, lowest) if name.endswith("running_var") else total)


def remember_average_normalization(merged: nn.Module, subjects: Sequence[Subject], weights: Sequence[float]) -> None:
    """Let a merged network normalize its input as its parents do, where they tell it: with the weighted average of theirs."""
    known = [(known_normalization(subject), weight) for subject, weight in zip(subjects, weights, strict=True)]
    told = [(found, weight) for found, weight in known if found is not None]
    if not told or len({len(found.mean) for found, _ in told}) > 1:
        return
    first = told[0][0]
    if all(found.same_values(first) for found, _ in told) or len(told) < len(subjects):
        remember_normalization(merged, first.mean, first.std, first.source)
        return
    mean, std = (
        tuple(sum(weight * getattr(found, part)[i] for found, weight in told) for i in range(len(first.mean)))
        for part in ("mean", "std")
    )
    log.warning(
        "the networks normalize their input in different ways: the merged one takes the average, %s and %s.", mean, std
    )
    remember_normalization(merged, mean, std, "the average of its parents'")
