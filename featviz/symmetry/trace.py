"""What one forward pass tells about units: `propagation` writes this record, `solve_groups` reads it. Types alone."""

from dataclasses import dataclass, field

from torch import Tensor

PINNED = 0  # the id of what may not be permuted
OUTPUT = "the network's output"  # the reason of what is pinned because the network returns it


@dataclass(frozen=True)
class ParameterAxis:
    """The unit ids of one axis of one parameter: `first_id`, `first_id + 1`, ... one for each index.

    In the weight of a grouped convolution with `blocks` groups, axis 1 has an id for each input channel of each group:
    `length` is `blocks` times the size of the axis.
    """

    parameter: str
    axis: int
    blocks: int
    first_id: int
    length: int


@dataclass(frozen=True)
class ModuleTensor:
    """A module's first output (or first input): its shape, its unit ids, and the axis of its channels."""

    shape: tuple[int, ...]
    ids: tuple[Tensor, ...]
    channel_axis: int


@dataclass
class Trace:
    """The record of one forward pass.

    Attributes:
        axes: every parameter axis that was used.
        same: tensors (2, n) of pairs of ids; the two ids of a pair are one unit.
        pinned: ids that may not be permuted, and why.
        blocks: (members, own): row b of `members` (blocks, n) holds the ids in block b, whose own id is `own[b]`.
        outputs, inputs: module name -> its first output and its first input.
        results: the tensors that the network returned, with the ids of their channels where these are free.
        unknown: operator without a rule -> the module where it first occurred.
        random: operator that draws random numbers -> the module where it first occurred.
        normalized: names of the parameters whose filters a batch norm rescales (`filter_scales.py`).
        buffers: names of those parameters that are buffers.
        count: how many ids were given out.
    """

    axes: list[ParameterAxis] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    pinned: list[tuple[Tensor, str]] = field(default_factory=list)
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    outputs: dict[str, ModuleTensor] = field(default_factory=dict)
    inputs: dict[str, ModuleTensor] = field(default_factory=dict)
    results: list[ModuleTensor] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    random: dict[str, str] = field(default_factory=dict)
    normalized: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()
    count: int = 1
