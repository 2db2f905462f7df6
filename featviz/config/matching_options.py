"""Options of the matching methods: a frozen dataclass for each, whose fields have a help text and a checked range.

`matching_methods.py` names the class of every method, and makes `AlignConfig` and the command line from all of them.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from featviz.config.ranges import in_range
from featviz.errors import AlignmentError, shown


def option(default: Any, text: str, low: float, high: float) -> Any:
    """A field of a method's options: an int, a float, or a tuple of floats, each between `low` and `high`.

    Args:
        default: its type decides what is accepted.
        text: one line for the command line's help.
    """
    return field(default=default, kw_only=True, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True)
class MethodOptions:
    """Options of a matching method. A method with options has a frozen dataclass of its own, whose fields are `option`s.

    Raises:
        AlignmentError: a value out of its range, with the range.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            if "low" in one.metadata:
                object.__setattr__(self, one.name, _checked(one.name, getattr(self, one.name), one))


def _checked(name: str, value: Any, one: Any) -> Any:
    low, high = one.metadata["low"], one.metadata["high"]
    if not isinstance(one.default, tuple):
        return in_range(name, value, low, high, AlignmentError)
    if not isinstance(value, (tuple, list)) or len(value) != len(one.default):
        raise AlignmentError(f"{name} is {shown(value)}: give {len(one.default)} numbers between {low} and {high}.")
    return tuple(in_range(name, part, low, high, AlignmentError) for part in value)


@dataclass(frozen=True)
class ActivationOptions(MethodOptions):
    """Of matching by activations."""

    positions: int = option(
        196, "positions of a map that are compared, on a grid that moves from batch to batch; 0: all", 0, 10**9
    )


@dataclass(frozen=True)
class WeightMatchingOptions(MethodOptions):
    """Of coordinate descent on the weights."""

    restarts: int = option(4, "starts; the best one is kept", 1, 10**6)
    sweeps: int = option(100, "sweeps over all groups per start, at most", 0, 10**6)
    tolerance: float = option(1e-9, "relative gain of a sweep under which a start has converged", 0.0, 1.0)
    scale_free: int = option(
        0, "1: compare every filter at unit norm, where norms were folded in; 0: those before a batch norm alone", 0, 1
    )


@dataclass(frozen=True)
class SinkhornOptions(WeightMatchingOptions):
    """Of gradient ascent on doubly stochastic matrices, which begins at weight matching's permutations."""

    sinkhorn_steps: int = option(300, "steps of Adam", 0, 10**6)
    sinkhorn_lr: float = option(0.05, "learning rate of the logits", 0.0, 1e6)
    sinkhorn_temperature: tuple[float, float] = option(
        (1.0, 0.1), "temperature at the first and at the last step; near 0 the matrices are permutations", 1e-6, 1e6
    )


@dataclass(frozen=True)
class ZipItOptions(MethodOptions):
    """Of ZipIt's greedy clustering."""

    alpha: float = option(0.3, "what a merge leaves of a cluster's similarity; 0: clusters are pairs", 0.0, 1.0)
    beta: float = option(0.125, "share of the merges that may lie within one network", 0.0, 1.0)


@dataclass(frozen=True)
class CCAOptions(MethodOptions):
    """Of CCA Merge."""

    gamma: float = option(1.0, "regularisation, relative to the mean eigenvalue of the covariances", 0.0, 1e6)


@dataclass(frozen=True)
class TransportOptions(MethodOptions):
    """Of optimal transport."""

    entropy: float = option(0.0, "regularisation, in units of 1 - correlation; 0: a permutation", 0.0, 1e6)
