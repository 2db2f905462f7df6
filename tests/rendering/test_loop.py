"""The ascent and `render`: same start same image, no unit depends on another, the caller's model is untouched."""

from dataclasses import replace

import kornia.augmentation as K
import pytest
import torch
from lucent.optvis import objectives as lucent
from lucent.optvis.render import render_vis
from networks import small_classifier as net
from torch import nn

from featviz.config import RenderConfig
from featviz.errors import ModelError, RenderError, UnitError
from featviz.rendering import (
    FeatureExtractor,
    Objective,
    as_lucent_param,
    ascend,
    channel,
    diversity,
    has_gradient,
    neuron,
    parameterization,
    render,
    score_images,
    seeded_starts,
    starts_with_gradient,
)
from featviz.rendering.image.spectrum import frequencies
from featviz.rendering.optimize.ascent import learning_rate
from featviz.zoo.resnet import CifarResNet

CONFIG = RenderConfig(size=12, steps=6, precision="float64", sd=0.1)
FLOAT32 = replace(CONFIG, precision="float32")


def optimized(model, layer, units, config, keys=None, **rest):
    extractor = FeatureExtractor(model, (layer,), config)
    drawn = seeded_starts(config, keys or units, extractor.channels, dtype=extractor.dtype)
    return ascend(extractor, channel(layer, units), drawn, **rest)


def test_the_ascent_raises_the_score():
    result = optimized(net(), "3", [0, 1, 2], replace(CONFIG, steps=40))
    start = optimized(net(), "3", [0, 1, 2], replace(CONFIG, steps=0))
    assert (result.score > start.score + 0.05).all()
    assert (result.trace[-5:].mean(0) > result.trace[:5].mean(0)).all()
    assert result.trace.shape == (40, 3)
    assert start.trace.shape == (0, 3)
    assert not start.dead.any()


def test_renderings_are_float32_images_on_the_cpu():
    result = optimized(net(), "3", [0, 1], CONFIG)
    assert result.images.shape == (2, 3, 12, 12)
    assert result.images.dtype == torch.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.score.dtype == torch.float64
    assert result.restart.tolist() == [0, 0]


def test_a_unit_does_not_depend_on_batch_mates_order_or_batch_size():
    model, units = net(), [0, 3, 5, 7, 2]
    whole = optimized(model, "3", units, CONFIG)
    for config, order in [
        (replace(CONFIG, batch=1), [0, 1, 2, 3, 4]),
        (replace(CONFIG, batch=2), [4, 2, 0, 1, 3]),
        (CONFIG, [1]),
    ]:
        part = optimized(model, "3", [units[i] for i in order], config)
        torch.testing.assert_close(part.images, whole.images[order], atol=1e-7, rtol=0)
        torch.testing.assert_close(part.score, whole.score[order], atol=1e-10, rtol=0)
        torch.testing.assert_close(part.trace, whole.trace[:, order], atol=1e-10, rtol=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_image():
    first, second = (render(net(), "3:0-2", CONFIG) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.score, second.score)
    other = render(net(), "3:0-2", replace(CONFIG, seed=1))
    assert (other.images - first.images).abs().max() > 0.01


def test_a_permuted_network_paints_the_same_picture_at_the_permuted_place():
    model, permuted = net(), net()
    perm = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    with torch.no_grad():
        permuted[3].weight.copy_(model[3].weight[perm])
        permuted[3].bias.copy_(model[3].bias[perm])
    ours = optimized(permuted, "3", list(range(8)), CONFIG, keys=range(8))
    theirs = optimized(model, "3", perm.tolist(), CONFIG, keys=range(8))
    torch.testing.assert_close(ours.images, theirs.images, atol=1e-7, rtol=0)


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(weight.requires_grad, weight.grad) for weight in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("config", [CONFIG, FLOAT32, replace(CONFIG, precision="bfloat16")])
def test_the_model_is_untouched(config):
    model = net().train()
    before = snapshot(model)
    render(model, ["3:0-2", "7:1"], config)
    after = snapshot(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_model_is_untouched_after_an_error_within_the_ascent(error):
    model = net().train()
    before = snapshot(model)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise error

    with pytest.raises(error):
        render(model, "3:0", FLOAT32, progress=stop)
    after = snapshot(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


def test_progress_counts_all_steps_of_all_batches():
    seen = []
    optimized(
        net(),
        "3",
        [0, 1, 2],
        replace(CONFIG, batch=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2 * (i + 1), 18) for i in range(6)] + [(13 + i, 18) for i in range(6)]


def test_a_lucent_objective_drives_the_ascent_as_it_is():
    model, config = net(), replace(CONFIG, steps=20)
    same = channel("3", 4)
    same.image_units = None  # a callable does not tell its unit: its start is another
    ours = render(model, same, config)
    theirs = render(model, lucent.channel("3", 4), config)
    torch.testing.assert_close(theirs.score, ours.score, atol=1e-9, rtol=0)
    torch.testing.assert_close(theirs.images, ours.images, atol=1e-6, rtol=0)


def test_lucent_names_and_combinations_serve_too():
    model = CifarResNet(8, width=1)
    config = replace(FLOAT32, steps=2)
    what = lucent.channel("layer1_0_conv2", 1) - 0.5 * lucent.channel("fc", 2) + lucent.diversity("layer1_0_conv2")
    result = render(model, what, config, images=2)
    assert result.images.shape == (2, 3, 12, 12)
    assert torch.equal(result.images, render(model, lambda T: what(T), config, images=2).images)


def test_a_featviz_parameterization_serves_lucents_render_vis():
    model, config = net().eval(), replace(FLOAT32, steps=4)
    images = parameterization(seeded_starts(config, [0, 1], 3).values, config)
    images = images.to("cuda:0" if torch.cuda.is_available() else "cpu")
    before = images().detach().clone()
    made = render_vis(
        model, "0:2", as_lucent_param(images), transforms=[], thresholds=(4,), progress=False,
        show_image=False, fixed_image_size=12,
    )  # fmt: skip
    assert made[0].shape == (2, 12, 12, 3)
    objective = channel("0", [2, 2])
    extractor = FeatureExtractor(net(), ("0",), config)
    assert (score_images(extractor, objective, images().detach()) > score_images(extractor, objective, before)).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_networks_on_other_channels_are_rendered(channels):
    result = render(net(channels), "3:0-1", FLOAT32)
    assert result.images.shape == (2, channels, 12, 12)


def test_images_need_not_be_square_nor_of_the_size_that_is_fed():
    model = net()
    result = render(model, "3:0", replace(CONFIG, size=(10, 15)))
    assert result.images.shape == (1, 3, 10, 15)
    sizes = []
    model[0].register_forward_pre_hook(lambda module, x: sizes.append(tuple(x[0].shape[-2:])))
    render(model, "3:0", replace(FLOAT32, size=(10, 15), input_size=(8, 9)))
    assert set(sizes) == {(8, 9)}


def test_pixels_are_optimized_too():
    result = render(net(), "3:0", replace(CONFIG, parameterization="pixel", steps=30))
    assert result.trace[-1] > result.trace[0]


def test_linear_layers_and_logits_are_rendered():
    assert len(render(net(), "7", FLOAT32)) == 5
    assert torch.equal(render(net(), "labels:2", FLOAT32).score, render(net(), "labels:2", FLOAT32).score)


def test_results_come_in_the_order_asked_for():
    model = net()
    mixed = render(model, ["3:5", "7:1", "3:0-1"], CONFIG)
    for place, spec in enumerate(["3:5", "7:1", "3:0", "3:1"]):
        alone = render(model, spec, CONFIG)
        torch.testing.assert_close(mixed.images[place], alone.images[0], atol=1e-7, rtol=0)


def test_neuron_changes_only_its_receptive_field():
    # without warps, and in pixels, so that nothing spreads
    config = replace(CONFIG, jitter=0.0, scale=0.0, rotation=0.0, parameterization="pixel", sd=0.0)
    image = render(net(), neuron("0", 2, (5, 5)), config).images[0]
    moved = (image - 0.5).abs().sum(0) > 1e-3
    assert moved[4:7, 4:7].any()
    moved[4:7, 4:7] = False
    assert not moved.any()


def test_diversity_makes_a_batch_differ_more():
    model, config = net(), replace(CONFIG, steps=30)
    plain = render(model, channel("3", [1, 1, 1]), config)
    varied = render(model, channel("3", [1, 1, 1]) + 5 * diversity("3"), config)
    extractor = FeatureExtractor(model, ("3",), config)
    spread = [score_images(extractor, diversity("3"), r.images).sum() for r in (plain, varied)]
    assert spread[1] > spread[0] + 0.05


def test_a_pipeline_takes_the_place_of_the_warps():
    pipeline = K.AugmentationSequential(K.RandomAffine(5.0, (0.1, 0.1), p=1.0), K.RandomHorizontalFlip(p=0.5))
    result = render(net(), "3:0-1", replace(FLOAT32, steps=40), robustness=pipeline)
    assert (result.score > optimized(net(), "3", [0, 1], replace(FLOAT32, steps=0)).score + 0.02).all()


def test_a_dead_unit_is_reported_by_name_and_never_silently_gray():
    model = net()
    with torch.no_grad():
        model[3].bias.fill_(1.0)
        model[3].bias[2] = -100.0
    with pytest.warns(UserWarning, match=r"^4:2: no usable gradient from 3 starts"):
        result = render(model, "4:1-3", replace(FLOAT32, restarts=2))
    assert result.dead.tolist() == [False, True, False]
    assert not render(model, "3:2", FLOAT32).dead.any()


class Times(nn.Module):
    """Unit 2 times a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :2], self.number * x[:, 2:3], x[:, 3:]], 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_reported(bad):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Times(bad))
    with pytest.warns(UserWarning, match="1:2: no usable gradient"):
        result = render(model, "1:2", FLOAT32)
    assert result.dead.all()
    assert result.images.isfinite().all()


@pytest.mark.parametrize("what", ["3:2", channel("0", 1), lambda T: T("0").mean()])
def test_weights_that_are_not_finite_are_named(what):
    model = net()
    with torch.no_grad():
        model[3].weight[2] = float("nan")
    with pytest.raises(ModelError, match=r"the network has NaN or Inf in 3\.weight"):
        render(model, what, FLOAT32)


class OnlyFrom(Objective):
    """Mean brightness, with a gradient only from starts that are bright enough."""

    layers = ("input",)

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def score(self, T):
        return (T("input").mean((1, 2, 3)) - self.threshold).relu()


def test_a_unit_that_is_dead_in_its_first_draw_gets_another():
    config = replace(CONFIG, sd=0.3, restarts=20)
    extractor = FeatureExtractor(net(), ("input",), config)
    objective = OnlyFrom(0.5)
    keys = list(range(6))
    first = seeded_starts(config, keys, 3, dtype=torch.float64)
    lives = has_gradient(extractor, objective, first)
    assert 0 < lives.sum() < 6
    found = starts_with_gradient([(extractor, objective)], keys)
    assert has_gradient(extractor, objective, found).all()
    assert (found.restart == 0).tolist() == lives.tolist()
    for unit in range(6):  # the choice is the unit's own
        alone = starts_with_gradient([(extractor, objective)], [unit])
        assert torch.equal(alone.values[0], found.values[unit])


def test_units_and_layers_that_are_not_there_are_named():
    with pytest.raises(UnitError, match="3 has no unit 8: its units are 0 to 7"):
        render(net(), "3:0-8", FLOAT32)
    with pytest.raises(UnitError, match="no layer '33'"):
        render(net(), "33:0", FLOAT32)
    with pytest.raises(RenderError, match="is no objective"):
        render(net(), 3, FLOAT32)  # pyright: ignore
    with pytest.raises(RenderError, match="no unit to render"):
        render(net(), [], FLOAT32)


def test_a_canvas_too_small_for_the_network_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 7))
    with pytest.raises(RenderError, match="cannot take images of 3 x 8 x 8"):
        render(model, "2:0", replace(FLOAT32, size=8))


def test_scores_of_images_do_not_depend_on_the_batch():
    extractor = FeatureExtractor(net(), ("3",), replace(CONFIG, batch=2))
    images = torch.rand(5, 3, 12, 12)
    scores = score_images(extractor, channel("3", [0, 1, 2, 3, 4]), images)
    alone = [score_images(extractor, channel("3", unit), images[unit : unit + 1]) for unit in range(5)]
    torch.testing.assert_close(scores, torch.cat(alone), atol=1e-12, rtol=0)


def test_the_step_size_falls_to_a_quarter_over_64_steps_and_stays_there():
    config = replace(CONFIG, steps=200, lr=0.1, schedule="linear")
    assert [learning_rate(config, step) for step in (0, 32, 64, 199)] == pytest.approx([0.4, 0.25, 0.1, 0.1])
    assert learning_rate(replace(config, steps=20), 16) == learning_rate(config, 16)


def test_a_cosine_schedule_goes_from_the_learning_rate_to_nothing():
    config = replace(CONFIG, steps=8, schedule="cosine", lr=0.2)
    rates = [learning_rate(config, step) for step in range(8)]
    assert rates[0] == 0.2
    assert rates[4] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert {learning_rate(replace(config, schedule="constant"), step) for step in range(8)} == {0.2}
    slow = optimized(net(), "3", [0], replace(config, steps=2))
    fast = optimized(net(), "3", [0], replace(config, steps=2, schedule="constant"))
    torch.testing.assert_close(slow.trace[:2], fast.trace[:2])  # the first step is the same, the second is half as long
    assert not torch.equal(slow.images, fast.images)


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
def test_saturation_decay_keeps_colors_from_black_and_white(kind):
    config = replace(FLOAT32, parameterization=kind, steps=120, lr=0.3, weight_decay=0, ema=0)
    shares = []
    for decay in (0.0, 1.0):
        images = optimized(net(), "3", [0, 1], replace(config, saturation_decay=decay)).images
        shares.append(((images < 0.02) | (images > 0.98)).float().mean())
    without, kept = shares
    assert without > 0.1
    assert kept < without / 4


@pytest.mark.parametrize("kind", ["fourier", "pixel", "maco"])
def test_every_parameterization_climbs_and_float32_agrees_with_plain_adamw(kind):
    """Fused AdamW goes by the place of a number in memory: a gradient with other strides would be another image's."""
    config = replace(FLOAT32, parameterization=kind, steps=30, jitter=0, scale=0, rotation=0, sd=1.0, ema=0.8)
    model = net()
    found = optimized(model, "3", [0, 1], config)
    start = optimized(model, "3", [0, 1], replace(config, steps=0))
    assert (found.score > start.score + 0.02).all()
    extractor = FeatureExtractor(model, ("3",), config)
    drawn = seeded_starts(config, [0, 1], extractor.channels)
    painter = parameterization(drawn.values, config)
    adam = torch.optim.Adam(
        [painter.values], lr=config.step_size, betas=(config.beta1, 0.999), fused=False, foreach=False
    )
    nyquist, lowest = 0.5, 1 / max(config.image_hw)
    relative = frequencies(config.image_hw).clamp(min=lowest)[..., None] / nyquist
    fading = config.weight_decay * {"fourier": relative, "pixel": 0.1, "maco": 0}[kind]
    average, momentum = torch.zeros_like(painter.values), torch.zeros_like(painter.values)
    for step in range(config.steps):
        adam.zero_grad()
        images = painter()
        (-channel("3", [0, 1]).score(extractor(images).__getitem__).sum()).backward()
        excess = painter.excess(images.detach())
        rate = config.step_size * (4 - 3 * step / 64)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        with torch.no_grad():
            momentum = config.beta1 * momentum + (1 - config.beta1) * painter.values.grad  # of a loss to be made small
            shrinks = painter.values.sign() == momentum.sign()
            painter.values -= rate * fading * shrinks * painter.values
            painter.values -= 0 if excess is None else rate * config.saturation_decay * excess
        weight = max(0.2, 1 / (step + 1))
        average = (1 - weight) * average + weight * painter.values.detach()
    with torch.no_grad():
        painter.values.copy_(average)
    plain = score_images(extractor, channel("3", [0, 1]), painter().detach())
    torch.testing.assert_close(found.score, plain, rtol=0.02, atol=0.01)
