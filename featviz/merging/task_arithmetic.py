"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): fine-tuned networks of one base, added and subtracted.

    task_arithmetic(base, {"cars": a, "signs": b}, weights={"cars": 0.4, "signs": -0.3})
        = base + 0.4 * (a - base) - 0.3 * (b - base)

Networks that were trained on from one base need no permutation: their units kept their places.
"""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from featviz.config.ranges import number
from featviz.data import Data
from featviz.errors import AlignmentError, ModelError, shown
from featviz.isolation import copy_of
from featviz.merging.average import remember_average_normalization, write_sum_of_differences
from featviz.merging.batchnorm import Progress, check_batchnorm_repair, has_batchnorm, reset_batchnorm
from featviz.subjects import Subject, as_subject
from featviz.weights.checks import check_finite, first_names
from featviz.weights.tensors import named_tensors

log = logging.getLogger("featviz")
HIGHEST = 10  # the largest weight, either way


def task_arithmetic(
    base: nn.Module | Subject,
    models: Mapping[str, nn.Module | Subject],
    weights: float | Mapping[str, float] = 1.0,
    repair: str = "none",
    data: Data | None = None,
    progress: Progress = None,
) -> nn.Module:
    """The base plus weighted differences of fine-tuned networks to it, parameter by parameter.

    Parameters and buffers that a fine-tuned network does not have in the base's shape, such as a head of other classes, stay
    the base's, which is logged. Running variances never fall below the smallest of the networks'.

    Args:
        base: what all were trained on from; left as it was, as are the others.
        models: fine-tuned networks by name.
        weights: of every difference, between -10 and 10: one number for all, or by name. 1 alone gives that network; below 0
            the task is unlearned.
        repair: "batchnorm" measures the running statistics of every BatchNorm layer afresh on `data`; "auto" does so where
            there is data and such a layer; "none" does not.
        data: batches `x` or `(x, label)` for the repair; iterated once.
        progress: called with (batches done, 0).

    Returns:
        A copy of the base with the summed weights, and the base's input normalization.

    Raises:
        AlignmentError: no networks, weights of other names or out of range, another repair, or no data for it.
        ModelError: a network that shares no parameter with the base, or holds NaN or infinite weights.
    """
    start = as_subject(base, "base")
    tuned = {name: as_subject(model, name) for name, model in models.items()}
    factors = _factors(list(tuned), weights)
    check_batchnorm_repair(repair, start.model, data, "task arithmetic")
    tensors = named_tensors(start.model)
    check_finite(start.model, "the base")
    others = []
    for name, subject in tuned.items():
        check_finite(subject.model, name)
        others.append((_shared_tensors(name, named_tensors(subject.model), tensors), factors[name]))
    merged = copy_of(start.model)
    write_sum_of_differences(merged, tensors, others)
    remember_average_normalization(merged, [start], [1.0])
    if repair != "none" and data is not None and has_batchnorm(merged):
        reset_batchnorm(merged, data, progress)
    return merged


def _factors(names: list[str], weights: float | Mapping[str, float]) -> dict[str, float]:
    """The weight of every network.

    Raises:
        AlignmentError: there are no networks, or weights of other names or out of range.
    """
    if not names:
        raise AlignmentError("there are no fine-tuned networks: give one or more by name, as {'x': model}.")
    given = dict(weights) if isinstance(weights, Mapping) else dict.fromkeys(names, weights)
    if given.keys() != set(names):
        raise AlignmentError(
            f"there are weights of {first_names(given) or 'none'} for the networks {first_names(names)}: give one for each."
        )
    for name, weight in given.items():
        found = number(weight, float)
        if found is None or not -HIGHEST <= found <= HIGHEST:
            raise AlignmentError(
                f"the weight of {name} is {shown(weight)}: it lies between {-HIGHEST} and {HIGHEST}; give one for "
                "all networks, or one for each by name."
            )
    return {name: float(weight) for name, weight in given.items()}


def _shared_tensors(name: str, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors by the base's names; the base's own where it has none of that shape.

    Raises:
        ModelError: there is not one.
    """
    shared = {key for key, value in base.items() if key in tensors and tensors[key].shape == value.shape}
    if not shared:
        raise ModelError(f"{name} shares no parameter with the base: give networks that were trained on from it.")
    left = [key for key in base if key not in shared] + [key for key in tensors if key not in base]
    if left:
        log.warning("%s: %s differ from the base, and stay the base's.", name, first_names(left))
    return {key: tensors[key] if key in shared else value for key, value in base.items()}
