"""What each objective scores, on activations that are written down."""

import pytest
import torch
import torch.nn.functional as F
from lucent.optvis import objectives as lucent
from torch import nn

import featviz
from featviz.errors import RenderError, UnitError
from featviz.rendering import channel, deepdream, direction, diversity, from_callable, logit, neuron


@pytest.fixture
def T():
    torch.manual_seed(0)
    activations = {
        "conv": torch.randn(3, 4, 5, 6),
        "fc": torch.randn(3, 7),
        "tokens": torch.randn(3, 9, 8),
        "channels_last": torch.randn(3, 5, 6, 4),
        "labels": torch.randn(3, 10),
        "input": torch.rand(3, 3, 8, 8),
    }
    return activations.__getitem__


def test_channel_is_the_mean_of_each_images_own_unit(T):
    score = channel("conv", [2, 0, 2]).score(T)
    torch.testing.assert_close(score, torch.stack([T("conv")[i, u].mean() for i, u in enumerate([2, 0, 2])]))
    torch.testing.assert_close(channel("fc", [6, 0, 1]).score(T), T("fc")[range(3), [6, 0, 1]])
    tokens = channel("tokens", [7, 0, 1]).score(T)
    torch.testing.assert_close(tokens, torch.stack([T("tokens")[i, :, u].mean() for i, u in enumerate([7, 0, 1])]))
    last = channel("channels_last", [3, 0, 1], axis=-1).score(T)
    torch.testing.assert_close(
        last, torch.stack([T("channels_last")[i, ..., u].mean() for i, u in enumerate([3, 0, 1])])
    )
    first = channel("tokens", [8, 0, 1], axis=1).score(T)
    torch.testing.assert_close(first, torch.stack([T("tokens")[i, u].mean() for i, u in enumerate([8, 0, 1])]))


def test_neuron_is_one_position_and_the_centre_by_default(T):
    units = [1, 2, 3]
    torch.testing.assert_close(neuron("conv", units).score(T), T("conv")[range(3), units, 2, 3])
    torch.testing.assert_close(neuron("conv", units, (0, 5)).score(T), T("conv")[range(3), units, 0, 5])
    torch.testing.assert_close(neuron("tokens", units, (8,)).score(T), T("tokens")[range(3), 8, units])
    torch.testing.assert_close(neuron("fc", units).score(T), T("fc")[range(3), units])
    for position in [(5, 0), (0,), (-1, 0)]:
        with pytest.raises(UnitError, match="conv has no position"):
            neuron("conv", units, position).score(T)


def test_logit_is_the_networks_own_output(T):
    torch.testing.assert_close(logit([1, 2, 9]).score(T), T("labels")[range(3), [1, 2, 9]])
    assert logit(3).layers == ("labels",)


def test_direction_is_the_projection_on_the_unit_vector(T):
    vector = torch.tensor([0.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(direction("conv", vector).score(T), T("conv")[:, 1].mean((1, 2)))
    each = torch.eye(4)[[3, 0, 1]]
    torch.testing.assert_close(direction("conv", each).score(T), channel("conv", [3, 0, 1]).score(T))
    torch.testing.assert_close(
        direction("conv", each).select([1]).score(lambda name: T(name)[1:2]), T("conv")[1:2, 0].mean((1, 2))
    )
    with pytest.raises(UnitError, match="5 entries, conv has 4 units"):
        direction("conv", torch.ones(5)).score(T)


def test_a_direction_keeps_its_digits_after_a_render_in_float32(T):
    exact = torch.tensor([1.0, 1 / 3, 0.0, 0.0], dtype=torch.float64)
    objective = direction("conv", exact)
    objective.score(T)
    score = objective.score(lambda name: T(name).double())
    assert torch.equal(score, direction("conv", exact).score(lambda name: T(name).double()))


def test_direction_with_power_one_prefers_the_direction_to_length():
    aligned, long = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.1, 9.0]])
    vector = torch.tensor([1.0, 0.0])
    plain, insisting = direction("fc", vector), direction("fc", vector, cosine_power=1.0)
    assert plain.score(lambda _: long) > plain.score(lambda _: aligned)
    assert insisting.score(lambda _: long) < insisting.score(lambda _: aligned)


def test_deepdream_is_the_mean_square(T):
    torch.testing.assert_close(deepdream("conv").score(T), (T("conv") ** 2).mean((1, 2, 3)))


def test_diversity_sums_to_minus_the_similarity_of_grams(T):
    score = diversity("conv").score(T)
    grams = F.normalize(torch.einsum("bcyx,bdyx->bcd", T("conv"), T("conv")).flatten(1))
    pairs = sum((grams[i] @ grams[j]) for i in range(3) for j in range(3) if i != j)
    assert score.sum() == pytest.approx(-pairs.item() / 3)
    assert score.sum() == pytest.approx(lucent.diversity("conv")(T).item())


def test_diversity_prefers_different_images_when_added():
    same = torch.ones(2, 3, 4, 4)
    other = torch.stack([torch.ones(3, 4, 4), torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.zeros(4, 4)])])
    assert diversity("conv").score(lambda _: other).sum() > diversity("conv").score(lambda _: same).sum()


def test_objectives_are_added_and_scaled(T):
    a, b = channel("conv", [0, 1, 2]), neuron("fc", [1, 2, 3])
    combined = (2 * a - b / 4 + 1 - 0.5) * 3
    torch.testing.assert_close(combined.score(T), (2 * a.score(T) - b.score(T) / 4 + 0.5) * 3)
    torch.testing.assert_close((-a).score(T), -a.score(T))
    torch.testing.assert_close((1 - a).score(T), 1 - a.score(T))
    torch.testing.assert_close(sum([a, b]).score(T), a.score(T) + b.score(T))
    assert combined.layers == ("conv", "fc")
    assert combined.images == 3
    assert not combined.coupled
    assert (a + diversity("conv")).coupled
    assert (a + from_callable(lambda T: T("fc").mean())).layers is None
    with pytest.raises(TypeError):
        a * b  # pyright: ignore
    with pytest.raises(RenderError, match="cannot be added"):
        a + channel("conv", [1])


def test_pick_is_the_objective_of_some_of_its_images(T):
    combined = channel("conv", [0, 1, 2]) + 2 * neuron("fc", [1, 2, 3]) + deepdream("conv")
    rows = [2, 0]
    torch.testing.assert_close(combined.select(rows).score(lambda name: T(name)[rows]), combined.score(T)[rows])


def test_units_out_of_range_and_wrong_counts_are_refused(T):
    with pytest.raises(UnitError, match="conv has no unit 4: its units are 0 to 3"):
        channel("conv", [0, 4, 1]).score(T)
    with pytest.raises(UnitError, match="no unit -1"):
        channel("conv", [0, -1, 1]).score(T)
    with pytest.raises(RenderError, match="names 2 units for 3 images"):
        channel("conv", [0, 1]).score(T)
    with pytest.raises(UnitError, match="has no units"):
        channel("loss", [0]).score(lambda _: torch.ones(3))


def test_a_lucent_objective_is_the_loss_turned_round(T):
    loss = lucent.channel("conv", 2)
    score = from_callable(loss).score(T)
    assert score.shape == (3,)
    torch.testing.assert_close(score, -loss(T).expand(3))
    with pytest.raises(RenderError, match="one loss to minimize"):
        from_callable(lambda T: T("conv").mean((1, 2, 3))).score(T)


def test_bfloat16_activations_are_scored_in_float32_and_float64_in_float64():
    for given, wanted in [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]:
        maps = torch.randn(1, 2, 50, 50).to(given)
        score = channel("conv", 1).score(lambda _, maps=maps: maps)
        assert score.dtype == wanted
        torch.testing.assert_close(score[0], maps[0, 1].to(wanted).mean())


class Contrast(featviz.Objective):
    """The example of the documentation: an objective of one's own."""

    def __init__(self, layer: str) -> None:
        self.layer, self.layers = layer, (layer,)

    def score(self, T):
        return T(self.layer).float().var((2, 3)).mean(1)


def test_an_objective_of_ones_own_is_added_and_rendered(T):
    combined = channel("conv", [0, 1, 2]) + 0.5 * Contrast("conv")
    torch.testing.assert_close(
        combined.score(T), channel("conv", [0, 1, 2]).score(T) + 0.5 * T("conv").var((2, 3)).mean(1)
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    found = featviz.render(model, featviz.channel("2", 1) + Contrast("0"), featviz.RenderConfig(size=16, steps=8))
    assert found.images.shape == (1, 3, 16, 16)
    assert (found.score > found.trace[0]).all()
