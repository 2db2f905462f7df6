"""Writes in place: tensors on the memory that was written get the unit ids of what was written into them.

`z[:, :4] += y` writes a view; `z` itself then carries the new ids in its first four channels and its old ids in the
others.
"""

import torch
from torch import Tensor

from featviz.symmetry.trace import PINNED
from featviz.symmetry.unit_tracer import UnitTracer, axes_of, is_equal_along

_ONE = torch.ones((), dtype=torch.long)


def written_in_place(tracer: UnitTracer, part: Tensor, uniform: bool) -> None:
    """Give all tensors that overlap `part` in memory its ids where they overlap.

    Args:
        part: the tensor that an operator wrote; it has its new ids already.
        uniform: what was written are constants alone. Where they are the same all along the axis of the ids, which
        `part`
            spans whole, the ids that were there stay.
    """
    memory = part.untyped_storage().data_ptr()
    overlapping = [t for t in tracer.known_tensors() if t is not part and t.untyped_storage().data_ptr() == memory]
    for whole in overlapping:
        old, new = tracer.ids_of(whole), tracer.ids_of(part)
        was_constant = tracer.is_constant(whole)
        tracer.mark_constant(whole, False)
        if old and new and len(old) != len(new):
            tracer.pin((*old, *new), f"a tensor of other structure written into a part in {tracer.where}")
            tracer.set_ids(whole, ())
            continue
        pairs = [
            (old[n] if old else _pinned(whole), new[n] if new else _pinned(part))
            for n in range(max(len(old), len(new)))
        ]
        inside = _overlaid(_pinned(whole), whole, _ONE, part).bool() if pairs else _ONE
        found = []
        for before, after in pairs:
            if not new and uniform:
                if is_equal_along(inside, axes_of(before)):
                    found.append(before)
                    continue
                after = _constant_ids(tracer, part, axes_of(before) if part.dim() == whole.dim() else set())
            axes = axes_of(after) if part.dim() == whole.dim() else set()
            if was_constant and axes and not old and is_equal_along(whole.masked_fill(inside, 0), axes):
                if is_equal_along(inside, axes):
                    found.append(after)
                    continue
                before = _constant_ids(tracer, whole.masked_fill(inside, 0), axes)
            found.append(_overlaid(before, whole, after, part))
        tracer.set_ids(whole, found)


def _pinned(tensor: Tensor) -> Tensor:
    return torch.full((1,) * tensor.dim(), PINNED, dtype=torch.long)


def _constant_ids(tracer: UnitTracer, tensor: Tensor, axes: set[int]) -> Tensor:
    """Ids of what is one constant along an axis; pinned where it is not, or where there is not one axis."""
    if len(axes) != 1 or max(axes) >= tensor.dim() or not is_equal_along(tensor, axes):
        return _pinned(tensor)
    (axis,) = axes
    return tracer.constant_ids(tensor.shape[axis]).view([-1 if a == axis else 1 for a in range(tensor.dim())])


def _overlaid(before: Tensor, whole: Tensor, after: Tensor, part: Tensor) -> Tensor:
    """The ids of `whole` once `part`, on the same memory, has its own."""
    length = whole.untyped_storage().nbytes() // whole.element_size()
    memory = torch.full((length,), PINNED, dtype=torch.long)
    for tensor, ids in ((whole, before), (part, after)):
        memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(ids.expand(tensor.shape))
    return memory.as_strided(whole.shape, whole.stride(), whole.storage_offset()).clone()
