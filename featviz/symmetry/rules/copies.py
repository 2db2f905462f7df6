"""Rules of copies, and of new tensors that take only their shape from an argument.

y.copy_(x), x (4, 8) with ids (4, 1) into y (1, 4, 8): y has ids (1, 4, 1). torch.zeros_like(x): a constant, without
ids.
"""

import torch

from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.unit_tracer import UnitTracer

aten = torch.ops.aten


@rule(aten._to_copy, aten.lift_fresh, aten.native_dropout, aten.contiguous, aten.resolve_conj, aten.detach_)
def same_shape(tracer: UnitTracer, call: Call) -> None:
    """The first output has the units of the first argument."""
    tracer.set_ids(call.outputs[0], tracer.ids_of(call.args[0]))


@rule(aten.copy_)
def copy(tracer: UnitTracer, call: Call) -> None:
    """`src`, broadcast, replaces what was there."""
    source, out = call["src"], call.out
    new_axes = (1,) * (out.dim() - source.dim())
    tracer.set_ids(out, [ids.reshape(new_axes + tuple(ids.shape)) for ids in tracer.ids_of(source)])


@rule(
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.new_empty, aten.fill_, aten.zero_, aten.fill,
)  # fmt: skip
def constant(tracer: UnitTracer, call: Call) -> None:
    """The same value everywhere, whatever the first argument holds."""
    tracer.set_ids(call.out, ())
    tracer.mark_constant(call.out)
