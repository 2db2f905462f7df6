"""Networks whose heads differ: what they share is merged, and the head is A's, B's or both."""

import copy

import pytest
import torch
from networks import TinyCNN, TinyResNet, planted, relative_difference, seeded
from torch import nn

import featviz
from featviz.errors import AlignmentError, ModelError
from featviz.merging.private_parts import TwoHeads
from featviz.zoo.pair import bundled_pair

EXAMPLE = torch.rand(1, 3, 8, 8)
IMAGES = [torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def other_head(model: nn.Module, classes: int = 7) -> nn.Module:
    torch.manual_seed(classes)
    model.fc = nn.Linear(model.fc.in_features, classes)
    return model


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), other_head(seeded(TinyResNet, 1))


def test_a_merge_of_networks_that_differ_asks_for_a_head(pair):
    sentence = r"A alone has fc\.weight, fc\.bias, B alone has fc\.weight, fc\.bias\): choose head='a', 'b' or 'both'"
    for alignment in (None, featviz.align(*pair, EXAMPLE)):
        with pytest.raises(AlignmentError, match=sentence):
            featviz.merge(*pair, alignment)
    with pytest.raises(AlignmentError, match="no head 'c': use one of a, b, both"):
        featviz.merge(*pair, None, head="c")
    with pytest.raises(AlignmentError, match="have none: leave it out"):
        featviz.merge(pair[0], pair[0], None, head="a")
    with pytest.raises(AlignmentError, match="two outputs"):
        featviz.loss_barrier(*pair, None, [], head="both")
    with pytest.raises(ModelError, match="no parameter of one name and shape"):
        featviz.merge(pair[0], nn.Linear(2, 2), None, head="a")


@pytest.mark.parametrize("aligned", [True, False])
def test_shared_parts_are_averaged_and_the_head_is_the_chosen_one(pair, aligned):
    a, b = pair
    alignment = featviz.align(a, b, EXAMPLE) if aligned else None
    permuted = alignment.permute(b) if aligned else b
    for head, own in (("a", a), ("b", permuted)):
        merged = featviz.merge(a, b, alignment, weight=0.25, head=head)
        assert torch.equal(merged.fc.weight, own.fc.weight)
        for name, x in merged.named_parameters():
            if not name.startswith("fc"):
                torch.testing.assert_close(x, 0.75 * a.get_parameter(name) + 0.25 * permuted.get_parameter(name))
    ends = (
        featviz.merge(a, b, alignment, 0, data=IMAGES, head="a"),
        featviz.merge(a, b, alignment, 1, data=IMAGES, head="b"),
    )
    assert all(torch.equal(x, y) for x, y in zip(ends[0].state_dict().values(), a.state_dict().values(), strict=True))
    assert relative_difference(ends[1], b, IMAGES[0]) < 1e-5


def test_both_heads_share_one_trunk_and_give_both_outputs(pair):
    a, b = pair
    alignment = featviz.align(a, b, EXAMPLE)
    both = featviz.merge(a, b, alignment, data=IMAGES, head="both")
    assert isinstance(both, TwoHeads)
    one, other = both
    single = [featviz.merge(a, b, alignment, data=IMAGES, head=head) for head in ("a", "b")]
    x = IMAGES[0]
    with torch.no_grad():
        for output, unpacked, expected in zip(both(x), (one, other), single, strict=True):
            torch.testing.assert_close(output, expected(x))
            torch.testing.assert_close(unpacked(x), expected(x))
        assert [y.shape[1] for y in both(x)] == [5, 7]
    assert one.conv1.weight is other.conv1.weight
    assert one.bn1.running_var is other.bn1.running_var
    assert len(list(both.parameters())) == len(list(a.parameters())) + 2
    copied = copy.deepcopy(both)
    assert copied.a.conv1.weight is copied.b.conv1.weight


def test_repair_corrects_the_shared_layers_alone():
    a, b = seeded(TinyCNN, 0), other_head(seeded(TinyCNN, 1))
    merged = featviz.merge(a, b, featviz.align(a, b, EXAMPLE), repair="repair", data=IMAGES, head="b")
    plain = featviz.merge(a, b, featviz.align(a, b, EXAMPLE), repair="none", head="b")
    assert torch.equal(merged.fc.bias, plain.fc.bias)
    assert not torch.allclose(merged.conv2.weight, plain.conv2.weight)


@pytest.mark.parametrize("until", ["conv1", "relu1", "conv2", "pool"])
def test_merged_heads_of_networks_that_differ_compute_what_their_parents_do(until):
    a = seeded(TinyCNN, 0)
    b, _, _ = planted(a, EXAMPLE, 3)
    b = other_head(b)
    heads = featviz.merge_heads(a, b, featviz.align(a, b, EXAMPLE), until, EXAMPLE)
    for head, own in zip(heads, (a, b), strict=True):
        assert relative_difference(head, own, IMAGES[0]) < 1e-5


def test_heads_are_not_merged_beyond_what_both_have(pair):
    with pytest.raises(
        AlignmentError, match=r"up to fc: fc\.(bias|weight), before its end, belongs to one of them alone"
    ):
        featviz.merge_heads(*pair, featviz.align(*pair, EXAMPLE), "fc", EXAMPLE)


def test_the_bundled_pair_with_another_head():
    pair = bundled_pair()
    example, images = torch.rand(1, 3, 32, 32), [torch.rand(8, 3, 32, 32)]
    b = other_head(pair.b)
    for data, method in ((None, "weights"), (images, "activations")):
        alignment = featviz.align(pair.a, b, example, method, data=data)
        assert relative_difference(alignment.permute(b), b, images[0]) < 1e-10
    for head, classes in (("a", 10), ("b", 7)):
        assert featviz.merge(pair.a, b, alignment, data=images, head=head)(images[0]).shape == (8, classes)
    one, other = featviz.merge_heads(pair.a, b, alignment, "layer2", example)
    assert (one(images[0]).shape, other(images[0]).shape) == ((8, 10), (8, 7))
    assert torch.equal(one.layer2[0].conv1.weight, other.layer2[0].conv1.weight)
