"""Merging networks that differ: what both have is averaged, and the rest belongs to one of them (heads of other classes).

The merged network is A with the average in its shared tensors (`head="a"`), B in A's basis with the same average (`head="b"`),
or both, with one trunk (`TwoHeads`).
"""

from collections.abc import Iterator, Mapping

from torch import nn

from featviz.config import HEADS
from featviz.errors import AlignmentError, ModelError
from featviz.isolation import copy_of
from featviz.matching.alignment import Alignment
from featviz.merging.average import write_average
from featviz.weights.checks import first_names
from featviz.weights.tensors import named_tensors


class TwoHeads(nn.Module):
    """Two networks with the same tensors in all that they share: images -> (output with A's head, output with B's head).

    `a` and `b` are the networks; `with_head_a, with_head_b = two_heads` unpacks them.

    Args:
        a, b: networks with equal values in the tensors that they share; B's are replaced by A's.
        shared: A's name -> B's name of every shared parameter and buffer.
    """

    def __init__(self, a: nn.Module, b: nn.Module, shared: Mapping[str, str]) -> None:
        super().__init__()
        self.a, self.b = a, b
        tensors_a, tensors_b = named_tensors(a), named_tensors(b)
        replaced = {id(tensors_b[name_b]): tensors_a[name_a] for name_a, name_b in shared.items()}
        for name, tensor in named_tensors(b, every_name=True).items():
            path, _, leaf = name.rpartition(".")
            module, new = b.get_submodule(path), replaced.get(id(tensor))
            if isinstance(new, nn.Parameter):
                module._parameters[leaf] = new
            elif new is not None:
                module._buffers[leaf] = new

    def forward(self, *inputs: object) -> tuple[object, object]:
        return self.a(*inputs), self.b(*inputs)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter((self.a, self.b))


def shared_tensors(model_a: nn.Module, model_b: nn.Module, alignment: Alignment | None) -> dict[str, str]:
    """A's name -> B's name of the parameters and buffers that both have.

    As the alignment says; without one, or where it says nothing, those of equal name and shape.

    Raises:
        ModelError: there are none.
    """
    if alignment is not None and alignment.shared_parameters is not None:
        return dict(alignment.shared_parameters)
    a, b = named_tensors(model_a), named_tensors(model_b)
    shared = {name: name for name, tensor in a.items() if name in b and tensor.shape == b[name].shape}
    if a and not shared:
        raise ModelError(
            "the networks have no parameter of one name and shape in common: give networks that share layers."
        )
    return shared


def check_head(head: str | None, model_a: nn.Module, model_b: nn.Module, shared: Mapping[str, str]) -> None:
    """Make sure that a head is chosen where the networks differ, and only there.

    Raises:
        AlignmentError: it is not, or there is no such choice.
    """
    if head is not None and head not in HEADS:
        raise AlignmentError(f"there is no head {head!r}: use one of {', '.join(HEADS)}.")
    in_b = set(shared.values())
    private_a = [name for name in named_tensors(model_a) if name not in shared]
    private_b = [name for name in named_tensors(model_b) if name not in in_b]
    if head is None and (private_a or private_b):
        raise AlignmentError(
            f"the networks differ (A alone has {first_names(private_a) or 'nothing'}, B alone has "
            f"{first_names(private_b) or 'nothing'}): choose head='a', 'b' or 'both' (--head)."
        )
    if head is not None and not private_a and not private_b:
        raise AlignmentError(
            f"head={head!r} chooses between parts that differ, and these networks have none: leave it out."
        )


def average_shared(
    model_a: nn.Module, permuted_b: nn.Module, shared: Mapping[str, str], weight: float, head: str = "a"
) -> nn.Module:
    """A copy of A (`head` "a") or B' ("b"), whose shared tensors are (1 - weight) * A + weight * B'."""
    tensors_a, tensors_b = named_tensors(model_a), named_tensors(permuted_b)
    target = model_a if head == "a" else permuted_b
    from_a, from_b = named_tensors(target), named_tensors(target)
    for name_a, name_b in shared.items():
        name = name_a if head == "a" else name_b
        from_a[name], from_b[name] = tensors_a[name_a], tensors_b[name_b]
    merged = copy_of(target)
    write_average(merged, [from_a, from_b], [1 - weight, weight])
    return merged


def repairable_modules(shared: Mapping[str, str], head: str = "a") -> dict[str, tuple[str, str]]:
    """Modules whose weight and bias are shared: their name in the merge of this head -> their names in A and in B."""
    found = {}
    for name, other in shared.items():
        (a, leaf), (b, leaf_b) = (full.rpartition(".")[::2] for full in (name, other))
        if leaf == leaf_b == "weight" and shared.get(f"{a}.bias") == f"{b}.bias":
            found[a if head == "a" else b] = (a, b)
    return found
