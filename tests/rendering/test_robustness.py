"""Random transforms follow from a unit's seed and the step, whatever makes them: alone or batched, in every subject."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from kornia import augmentation as K
from torch import nn
from torchvision.transforms import v2

import featviz
from featviz import RenderConfig, render
from featviz.errors import RenderError
from featviz.rendering.robustness.seeded_transform import SeededTransform

CONFIG = RenderConfig(size=24, steps=6, precision="float64")
LAYER = "2"


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))


def user_pipeline() -> nn.Module:
    """A flip and an affine that happen at random, an order of colors that is drawn for a whole batch, one of two blurs."""
    return K.AugmentationSequential(
        K.RandomAffine(5.0, (0.1, 0.1), p=0.7),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJiggle(0.1, 0.1, 0.1, 0.1, p=1.0),
        K.ImageSequential(
            K.RandomGaussianBlur((3, 3), (0.5, 1.0), p=1.0), K.RandomGaussianNoise(p=1.0), random_apply=1
        ),
    )


def swapped(x):
    """Draws from numpy and Python's random."""
    return x.roll(random.randint(0, 5), -1) * float(np.random.uniform(0.8, 1))


ROBUSTNESS = {
    "affine": "affine",
    "lucid": "lucid",
    "strong": "strong",
    "one augmentation": K.RandomPerspective(0.3, p=0.8),
    "a user's pipeline": user_pipeline(),
    "nn.Sequential": nn.Sequential(K.RandomAffine(9.0, p=1.0), K.RandomErasing(p=0.5)),
    "crops": K.RandomCrop((16, 20), p=1.0),
    "torchvision": v2.Compose([v2.RandomAffine(8.0), v2.RandomHorizontalFlip()]),
    "a callable": swapped,
}


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_a_unit_alone_has_the_image_that_it_has_in_a_batch(name):
    robustness = ROBUSTNESS[name]
    together = render(small_net(), f"{LAYER}:0-3", CONFIG, robustness=robustness)
    for unit in (0, 3):
        alone = render(small_net(), f"{LAYER}:{unit}", CONFIG, robustness=robustness)
        assert (alone.images[0] - together.images[unit]).abs().max() < 1e-6
    assert (together.images[0] - together.images[3]).abs().max() > 0.02


@pytest.mark.parametrize("name", ROBUSTNESS)
def test_equal_subjects_have_equal_images_and_the_generators_are_left_alone(name):
    subjects = {"one": small_net(), "again": small_net()}
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    panel = featviz.render_panel(subjects, LAYER, [0, 2], config=CONFIG, robustness=ROBUSTNESS[name])
    one, again = (part.images for part in panel.renderings.values())
    assert torch.equal(one, again)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_another_seed_draws_other_transforms():
    images = torch.rand(1, 3, 16, 16)
    transform = SeededTransform(user_pipeline())
    assert torch.equal(transform(images, [1], 0), transform(images, [1], 0))
    assert not torch.equal(transform(images, [1], 0), transform(images, [2], 0))
    assert not torch.equal(transform(images, [1], 0), transform(images, [1], 1))


@pytest.mark.parametrize("name", ["lucid", "strong"])
def test_presets_are_chosen_by_the_config_too(name):
    by_config = render(small_net(), f"{LAYER}:0", replace(CONFIG, robustness=name))
    by_argument = render(small_net(), f"{LAYER}:0", CONFIG, robustness=name)
    assert torch.equal(by_config.images, by_argument.images)
    assert not torch.equal(by_config.images, render(small_net(), f"{LAYER}:0", CONFIG).images)


def test_kornias_parameters_are_joined_for_the_whole_batch():
    batches = []

    class Seen(K.RandomAffine):
        def apply_transform(self, input, params, flags, transform=None):
            batches.append(len(input))
            return super().apply_transform(input, params, flags, transform)

    render(small_net(), f"{LAYER}:0-3", CONFIG, robustness=Seen(9.0, p=1.0))
    assert batches.count(4) >= CONFIG.steps


def stain(x):
    x[:, :, :8] = 0.5
    return x


class Dark(nn.Sequential):
    def forward(self, input):
        return super().forward(input) * 0.1


APART = {  # what a batch as a whole would mix up, seldom, or at once
    "seldom mixed": K.RandomMixUpV2(p=0.1, data_keys=["input"]),
    "seldom cut and mixed": K.RandomCutMixV2(p=0.1, data_keys=["input"]),
    "channels dropped": K.RandomChannelDropout(p=1.0),
    "seldom dropped": K.RandomChannelDropout(p=0.1),
    "the batch's mean": lambda x: x - x.mean() + 0.5,
    "by content": lambda x: x / x.amax().clamp(min=0.9),
    "in place": stain,
    "torchvision within kornia": K.ImageSequential(K.RandomAffine(9.0, p=1.0), v2.RandomHorizontalFlip(0.5)),
    "its own forward": Dark(K.RandomHorizontalFlip(p=0.5)),
}


@pytest.mark.parametrize("name", APART)
def test_a_pipeline_that_would_mix_a_batch_is_applied_image_by_image(name):
    together = render(
        small_net(), ["0:0", f"{LAYER}:0-3"], CONFIG, robustness=APART[name]
    )  # the first batch is one image
    states = torch.get_rng_state()
    alone = render(small_net(), f"{LAYER}:3", CONFIG, robustness=APART[name])
    assert torch.equal(states, torch.get_rng_state())
    assert (alone.images[0] - together.images[4]).abs().max() < 1e-6


def test_a_class_of_ones_own_keeps_its_forward():
    fed = []

    class Recording(Dark):
        def forward(self, input):
            fed.append(super().forward(input))
            return fed[-1]

    transform = SeededTransform(Recording(K.RandomHorizontalFlip(p=0.5)))
    assert transform(torch.ones(2, 3, 8, 8), [0, 1], 0).max() < 0.2


def test_a_neuron_on_its_receptive_field_is_fed_images_of_that_size():
    fed = []

    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, x):
            fed.append(tuple(x.shape[-2:]))
            return self.net(x)

    what = featviz.neuron("net.2", [1])
    config = replace(CONFIG, backend="eager")
    size = render(Recording(), what, config, robustness="strong", canvas="receptive_field").images.shape[-2:]
    assert size[0] < CONFIG.size
    assert fed[-CONFIG.steps - 1 :] == [tuple(size)] * (CONFIG.steps + 1)


def test_the_record_of_a_panel_says_what_was_used():
    config = replace(CONFIG, steps=2)
    for robustness, told in (("strong", "strong"), (None, "affine"), (K.RandomAffine(9.0, p=1.0), "RandomAffine(")):
        panel = featviz.render_panel({"A": small_net()}, LAYER, [0], config=config, robustness=robustness)
        assert panel.record()["config"]["robustness"].startswith(told)


def test_a_kornia_module_keeps_its_own_last_draw():
    pipeline = K.RandomAffine(9.0, p=1.0)
    pipeline(torch.rand(2, 3, 8, 8))
    before = pipeline._params["angle"].clone()
    render(small_net(), f"{LAYER}:0", CONFIG, robustness=pipeline)
    assert torch.equal(before, pipeline._params["angle"])


def test_what_cannot_be_seeded_or_is_no_transform_is_refused_by_name():
    own = torch.Generator().manual_seed(0)

    def unseeded(x):
        return x + 0.1 * torch.randn(x.shape, generator=own)

    for robustness, told in (
        (unseeded, "unseeded.* cannot be repeated"),
        (lambda x: x.mean(0), "let it give a tensor of as many images"),
        (7, "robustness is 7"),
        ("weak", "no robustness 'weak': use one of affine, lucid, strong"),
        (lambda x: x.view(3), "fails on images"),
        (lambda x: x.detach(), "cannot be differentiated|lets no gradient through"),
        (lambda x: x.round(), "lets no gradient through"),
        (lambda x: x * float("nan"), "not finite"),
        (v2.RandomPerspective(0.3, p=1.0), "RandomPerspective cannot be differentiated"),
        (K.RandomAffine, r"is the class RandomAffine: make one of it"),
    ):
        with pytest.raises(RenderError, match=told):
            render(small_net(), f"{LAYER}:0-1", CONFIG, robustness=robustness)
    with pytest.raises(RenderError, match=r"robustness is 'weak': use one of affine, lucid, strong"):
        RenderConfig(robustness="weak")
