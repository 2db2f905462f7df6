"""Whatever a caller's network does, and whatever mode of torch he is in, the images are the same and all comes back."""

import json
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from odd_networks import Counts, Keeps
from torch import Tensor, nn

import featviz
from featviz import render_unit_triplet
from featviz.config import RenderConfig
from featviz.errors import ModelError, RenderError
from featviz.rendering import channel, diversity, neuron, render
from featviz.rendering.optimize import malloc

CONFIG = RenderConfig(size=12, steps=4, precision="float32", sd=0.1)
EXACT = replace(CONFIG, precision="float64")


def net(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), *last)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.set_grad_enabled(False),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_a_mode_of_the_caller_changes_nothing(mode):
    model = net()
    expected = render(model, "3", CONFIG)
    with mode():
        found = render(model, "3", CONFIG)
    assert not found.dead.any()
    assert_same(found.images, expected.images)
    assert found.images.is_inference() is False


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_weights_in_float64_serve_every_precision(precision):
    config = replace(CONFIG, precision=precision)
    found = render(net().double(), "3", config)
    assert_same(found.images, render(net(), "3", config).images)
    assert found.images.dtype == torch.float32


def test_weights_that_were_made_in_inference_mode_serve():
    with torch.inference_mode():
        model = net()
    assert_same(render(model, "3", CONFIG).images, render(net(), "3", CONFIG).images)


def test_units_of_a_compiled_network_are_named_as_those_within():
    model = net()
    assert_same(render(torch.compile(model), "3:1", CONFIG).images, render(model, "3:1", CONFIG).images)


def test_the_global_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    render(net(), "3", CONFIG)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("config", [CONFIG, EXACT])
def test_buffers_that_the_network_writes_come_back(config):
    model = Counts()
    own = model.images
    render(model, "conv", config)
    assert model.images is own
    assert model.images == model.calls == model.data == model.mean == 0
    assert not model.mean.requires_grad
    assert model.later is None


@pytest.mark.parametrize("rounds", range(2))
def test_threads_on_one_network_do_not_see_each_other(rounds):
    model = net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    configs = [replace(CONFIG, steps=steps, batch=2) for steps in (12, 4, 8)]
    expected = [render(model, "3", config).images for config in configs]
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        found[number] = render(model, "3", configs[number]).images

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, images in enumerate(expected):
        assert_same(found[number], images)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_threads_take_turns_whatever_the_order_and_the_parts_of_their_networks():
    """Two triplets in opposite order, a render of one of their networks, and one of a network that shares its parts."""
    first, second = (nn.Sequential(net(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).train() for _ in "ab")
    for weight in second.parameters():
        weight.data += 0.1 * torch.randn(weight.shape)
    alignment = featviz.align(first, second, torch.rand(1, 3, 12, 12))
    merged = featviz.merge(first, second, alignment)
    back = featviz.align(merged, second, torch.rand(1, 3, 12, 12))
    short, failures = replace(CONFIG, steps=2), []
    expected = render(nn.Sequential(*first[0], nn.ReLU()), "3", short).images

    def repeat(work) -> None:
        try:
            for _ in range(6):
                work()
        except BaseException as error:
            failures.append(error)

    def triplet(a, c, found) -> None:
        render_unit_triplet(a, second, "0.3", [0, 1], merged=c, alignment=found, config=short)

    works = [
        lambda: triplet(first, merged, alignment),
        lambda: triplet(merged, first, back),
        lambda: triplet(first, None, alignment),
        lambda: render(second, "0.3", short),
        lambda: assert_same(render(nn.Sequential(*first[0], nn.ReLU()), "3", short).images, expected),
    ]
    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    for model in (first, second, merged):
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())


def test_a_render_leaves_the_attention_kernel_of_the_process_alone(monkeypatch):
    def refuse(enabled: bool) -> None:
        raise AssertionError("a setting of the process was written")

    monkeypatch.setattr(torch.backends.mha, "set_fastpath_enabled", refuse)
    render(net(), "3", CONFIG)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_what_a_network_keeps_is_not_the_shadow_of_a_trace(batch):
    torch.manual_seed(0)
    model = Keeps()
    assert_same(render(model, "conv", replace(CONFIG, batch=batch)).images, render(model, "conv", EXACT).images)


class Itself(nn.Sequential):
    def __deepcopy__(self, memo: object) -> nn.Module:
        return self


def test_a_network_that_cannot_be_copied_is_refused_in_the_words_of_align():
    model = nn.Sequential(Itself(*net()[:3]), nn.Conv2d(8, 4, 3)).train()
    said = []
    for ask in (lambda: render(model, "1", CONFIG), lambda: featviz.align(model, model, torch.rand(1, 3, 12, 12))):
        with pytest.raises(ModelError, match="the network cannot be copied: 0 is its own deep copy") as caught:
            ask()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert model.training


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_traced_by_fx_renders(precision):
    model = torch.fx.symbolic_trace(net().eval())
    config = replace(CONFIG, precision=precision)
    assert_same(render(model, "3", config).images, render(net(), "3", config).images)


@pytest.mark.parametrize("objective", [neuron, channel])
def test_an_objective_renders_its_unit_as_it_would_alone_and_by_name(objective):
    model = net()
    there, back = (render(model, objective("3", units), EXACT).images for units in ([0, 1], [1, 0]))
    assert_same(there, back.flip(0))
    assert_same(there[1:], render(model, objective("3", 1), EXACT).images)
    if objective is channel:
        assert_same(there, render(model, "3:0-1", EXACT).images)
        assert_same(there, render(model, 1 * objective("3", [0, 1]) + 0, EXACT).images)


def test_a_unit_that_is_asked_for_again_gets_another_start():
    images = render(net(), channel("3", [2, 2]) + diversity("3"), EXACT).images
    assert (images[0] - images[1]).abs().max() > 0.05


def test_statistics_of_the_batch_do_not_couple_its_images():
    model = net()
    model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    assert_same(render(model, "3", replace(EXACT, batch=4)).images, render(model, "3", replace(EXACT, batch=1)).images)


class Full(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.conv, self.error = nn.Conv2d(3, 4, 3), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), MemoryError()])
@pytest.mark.parametrize("what", ["labels:0", "labels", neuron("labels", 0)])
@pytest.mark.parametrize("batch", ["auto", 1])
def test_an_image_that_does_not_fit_is_told_so_wherever_it_is_found_out(error, what, batch):
    with pytest.raises(RenderError, match="1 images of 12 x 12 px do not fit the memory of cpu"):
        render(Full(error), what, replace(CONFIG, batch=batch))


def test_a_network_that_fails_is_told_with_its_reason():
    with pytest.raises(
        RenderError, match=r"fails on images of 3 x 12 x 12, and on those of other sizes \(IndexError: no such part\)"
    ):
        render(Full(IndexError("no such part")), "labels:0", CONFIG)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(net()), "scripted or traced"),
        (lambda: torch.jit.trace(net().eval(), torch.rand(1, 3, 12, 12)), "scripted or traced"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "lazy weights"),
    ],
)
def test_what_is_no_network_to_look_into_is_told_so(make, words):
    with pytest.raises(ModelError, match=words):
        render(make(), "0:0", CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 2.0}, {"restarts": 1.5}, {"batch": 2.5}, {"seed": 1.0}, {"size": True}, {"size": (16,)}, {"size": ()},
        {"input_size": (16,)}, {"mean": 0.5, "std": 0.5}, {"mean": (), "std": ()}, {"mean": ("a",) * 3, "std": (1.0,) * 3},
        {"mean": (float("nan"),) * 3, "std": (1.0,) * 3}, {"color": ((1, 0), (0, 1))}, {"color": 5},
        {"color": np.eye(2)}, {"mean": np.array(0.5), "std": np.array(0.5)},
        {"size": None}, {"profile": ("a", "b")}, {"profile": 5}, {"lr": True},
    ],
)  # fmt: skip
def test_a_value_of_nonsense_is_refused_by_name(wrong):
    with pytest.raises(RenderError, match=next(iter(wrong))):
        RenderConfig(**wrong)


def test_numbers_of_numpy_and_torch_serve():
    thirds = np.full(3, 0.5, np.float32)
    config = RenderConfig(
        size=np.int64(16), steps=np.int32(2), lr=np.float32(0.5), mean=thirds, std=torch.ones(3), color=np.eye(3)
    )
    assert config == RenderConfig(
        size=16, steps=2, lr=0.5, mean=(0.5,) * 3, std=(1,) * 3, color=((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    assert json.dumps(asdict(config))


def test_values_at_the_ends_of_their_ranges_render():
    config = replace(CONFIG, beta1=0, sd=1, steps=0)
    assert render(net(), "3:0", config).images.isfinite().all()
    assert render(net(), "3:0", replace(config, steps=20)).images.isfinite().all()


def test_overlapping_ascents_give_back_the_memory_settings_once_at_the_end(monkeypatch):
    written = []

    class Library:
        def mallopt(self, name: int, value: int) -> None:
            written.append((name, value))

        def malloc_trim(self, pad: int) -> None:
            written.append("trim")

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", "2.36"))
    first, second = malloc.keep_freed_memory(), malloc.keep_freed_memory()
    first.__enter__()
    kept = list(written)
    second.__enter__()
    first.__exit__(None, None, None)
    assert written == kept
    second.__exit__(None, None, None)
    assert written[-4:] == [
        (malloc.MMAP_MAX, malloc.MOST_MAPPED),
        (malloc.MMAP_THRESHOLD, malloc.LARGE),
        (malloc.TRIM_THRESHOLD, 2 * malloc.LARGE),
        "trim",
    ]
