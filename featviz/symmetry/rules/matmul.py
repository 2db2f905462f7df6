"""Rules of matrix products: what is summed over is the same unit on both sides; rows and columns go on to the output.

x (tokens, 4) @ W (4, 6): the ids of x's columns are the same as those of W's rows; the output has those of W's columns.
scores = q (heads, tokens, 3) @ k (heads, 3, tokens): coordinate 0 of head 1 in q is the same unit as coordinate 0 of
head 1 in k. Each head is a block; heads of q and k are the same blocks, and as no row or column of the scores carries
ids, their ids go on.
"""

import torch
from torch import Tensor

from featviz.symmetry.rules.elementwise import combine
from featviz.symmetry.rules.registry import Call, rule
from featviz.symmetry.unit_tracer import UnitTracer, axes_of

aten = torch.ops.aten


@rule(aten.mm, aten.bmm)
def mm(tracer: UnitTracer, call: Call) -> None:
    """a @ b, of matrices or of batches of matrices."""
    tracer.set_ids(call.out, product_ids(tracer, call["self"], call["mat2"], call.out))


@rule(aten.mv)
def mv(tracer: UnitTracer, call: Call) -> None:
    """matrix (n, k) @ vector (k,)."""
    vector, column = call["vec"], call["vec"][:, None]
    tracer.set_ids(column, [ids[:, None] for ids in tracer.ids_of(vector)])
    tracer.mark_constant(column, tracer.is_constant(vector))
    found = product_ids(tracer, call["self"], column, call.out[:, None])
    tracer.set_ids(call.out, [ids.squeeze(1) for ids in found])


@rule(aten.dot, aten.vdot)
def dot(tracer: UnitTracer, call: Call) -> None:
    """The sum of the products of two vectors."""
    one, other = (
        tracer.ids_of(call[name]) for name in ("self", "tensor" if call.get("tensor") is not None else "other")
    )
    tracer.same_units_or_pin(one, other)
    tracer.set_ids(call.out, ())


@rule(aten.addmm, aten.baddbmm)
def addmm(tracer: UnitTracer, call: Call) -> None:
    """input + a @ b."""
    a, b = (call[k] for k in (("batch1", "batch2") if call.get("batch1") is not None else ("mat1", "mat2")))
    product = torch.empty_like(call.out)
    tracer.set_ids(product, product_ids(tracer, a, b, call.out))
    combine(tracer, call.out, [call["self"], product])


def product_ids(tracer: UnitTracer, a: Tensor, b: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    """The id tensors of a (..., n, k) @ b (..., k, m)."""
    last = out.dim() - 1
    summed: tuple[list[Tensor], list[Tensor]] = ([], [])  # id tensors over k, of a and of b
    batches: tuple[list[Tensor], list[Tensor]] = ([], [])  # ids of the batch's indices, of a and of b
    result: list[Tensor] = []
    for side, (tensor, inner, free) in enumerate(((a, last, last - 1), (b, last - 1, last))):
        for ids in tracer.ids_of(tensor):
            axes = axes_of(ids)
            batch = axes - {inner, free}
            if inner in axes:
                ids = tracer.same_along(ids, [free])
                summed[side].append(ids.transpose(-1, -2) if side else ids)
            elif free in axes:
                result.append(ids)
            else:
                batches[side].append(ids)
                continue
            if batch:
                batches[side].append(tracer.block_ids(ids, batch))
    _same_summed(tracer, (a, b), summed)
    carried = any(axes_of(ids) - {last, last - 1} for ids in result)
    batch = _same_batches(tracer, (a, b), batches)
    return (*result, *([] if carried else batch))


def _same_summed(
    tracer: UnitTracer, operands: tuple[Tensor, Tensor], summed: tuple[list[Tensor], list[Tensor]]
) -> None:
    """What is summed over is the same on both sides.

    * A constant that has one value along that axis (a first state of zeros) allows any order of the other side: a
    block.
    * A flattened kernel has several id tensors along that axis (inputs, rows and columns of the kernel); a vector has
    one. The vector
      moves with the inputs, which have most ids, and the position in the kernel is pinned.
    """
    for ids, other, operand, axis in ((summed[0], summed[1], operands[1], -2), (summed[1], summed[0], operands[0], -1)):
        if ids and not other and tracer.is_uniform(operand, axis):
            for one in ids:
                tracer.block_ids(one, sorted(axes_of(one) - {one.dim() - 1}))
            return
    ones, others = (sorted(ids, key=lambda one: len(torch.unique(one))) for ids in summed)
    if len(ones) != len(others) and 1 in (len(ones), len(others)):
        for ids in (ones, others):
            if ids:
                tracer.pin(ids[:-1], f"the position in a kernel in {tracer.where}")
        ones, others = ones[-1:], others[-1:]
    else:
        ones, others = summed
    tracer.same_units_or_pin(ones, others)


def _same_batches(
    tracer: UnitTracer, operands: tuple[Tensor, Tensor], batches: tuple[list[Tensor], list[Tensor]]
) -> list[Tensor]:
    """The batches of both sides are the same blocks: their ids, or none where they had to be pinned."""
    both = [*batches[0], *batches[1]]
    if not both:
        return []
    for own, others, operand in ((batches[0], batches[1], operands[1]), (batches[1], batches[0], operands[0])):
        axes = {axis for ids in own for axis in axes_of(ids)}
        fixed = any(operand.shape[a] > 1 and not tracer.is_uniform(operand, a - operand.dim()) for a in axes)
        if own and not others and fixed:
            tracer.pin(both, f"meets a fixed tensor in {tracer.where}")
            return []
    if any(ids.shape != both[0].shape for ids in both):
        tracer.pin(both, f"batches of different structure in {tracer.where}")
        return []
    for ids in both[1:]:
        tracer.same_unit(both[0], ids)
    return both[:1]
