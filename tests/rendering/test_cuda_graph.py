"""A step of the ascent can be replayed: on the CPU by its operators, on CUDA as a graph."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from networks import TinyResNet, seeded
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import featviz
from featviz.rendering.backends.backend import Backend
from featviz.rendering.backends.cuda_graph import WARM, CudaGraph
from featviz.rendering.image.seeding import Starts, seeded_starts
from featviz.rendering.network import feature_extractor
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import channel
from featviz.rendering.optimize import ascent as ascent_module
from featviz.subjects import Normalization

CONFIG = featviz.RenderConfig(size=12, steps=WARM + 12, precision="float64", batch=3)
VARIANTS = {
    "fourier": {},
    "pixel": {"parameterization": "pixel", "sd": 0.5},
    "maco": {"parameterization": "maco"},
    "cosine": {"schedule": "cosine"},
    "border": {"border": "zeros", "input_size": 16},
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
}
READS_THE_HOST = ("_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero", "item", "unique", "masked_select")


class Operators(TorchDispatchMode):
    """Writes down every ATen call; played back, each computes from the same tensors into the same tensors, as a graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Replayed:
    """In place of `RecordedStep`, on any device."""

    made = 0

    def __init__(self) -> None:
        self.calls, self.operators = 0, Operators()

    def __call__(self, step: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls <= WARM:
            step()
        elif self.calls == WARM + 1:
            with self.operators:
                step()
            Replayed.made += 1
        else:
            self.operators.play()


@pytest.fixture
def replaying(monkeypatch):
    """Every ascent on the CPU records its fourth step and plays it from then on."""
    monkeypatch.setattr(Backend, "step_runner", lambda self: Replayed())
    Replayed.made = 0


def tiny() -> nn.Module:
    return seeded(TinyResNet, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_steps_make_the_same_images(variant, request):
    config = replace(CONFIG, **VARIANTS[variant])
    expected = featviz.render(tiny(), "bn2:0-4", config)
    request.getfixturevalue("replaying")
    found = featviz.render(tiny(), "bn2:0-4", config)
    assert Replayed.made == 2  # batches of 3 and 2
    torch.testing.assert_close(found.images, expected.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.trace, expected.trace)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_asks_the_host(variant, request):
    """Nor does it bring anything from there: no number is read back, no tensor is made of Python's numbers."""
    config = replace(CONFIG, **VARIANTS[variant])
    seen: list[str] = []
    play = Operators.play

    def look(self) -> None:
        seen.extend(func.overloadpacket.__name__ for func, *_ in self.calls)
        play(self)

    request.getfixturevalue("replaying")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Operators, "play", look)
        featviz.render(tiny(), "bn2:0-2", config)
    assert "grid_sampler_2d" in seen
    assert not set(seen) & set(READS_THE_HOST)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bfloat16"])  # autocast wants a real device
def test_all_of_a_step_is_on_the_device(variant, monkeypatch):
    """Tensors without contents stand for a CUDA device that is not there; a mixture of devices is an error.

    The gradient is left out, since autograd's engine asks the driver, and so is Adam, which is only given what it needs.
    """
    config = replace(CONFIG, **VARIANTS[variant] | {"precision": "float32", "backend": "eager"})
    place = torch.device("cuda", 0)
    monkeypatch.setattr(ascent_module, "gradient_of", lambda score, spectrum: score.sum() * spectrum.detach())
    known = Normalization((0.5,) * 3, (0.25,) * 3, "the test")  # reads values
    monkeypatch.setattr(feature_extractor, "input_normalization", lambda *args: known)
    given: list[Tensor] = []
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *args, **kwargs: given.extend(tree_leaves((args, kwargs))))
    start = seeded_starts(config, [0, 1, 2], 3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with place:
            net = TinyResNet()
        extractor = FeatureExtractor(net, ("bn2",), config, place)
        faked = Starts(mode.from_tensor(start.values), mode.from_tensor(start.warps), start.restart, start.seeds)
        ascent = ascent_module.Ascent(extractor, channel("bn2", [0, 1, 2]), faked)
        for _ in range(2):
            ascent.step()
        found = [tensor for tensor in given if isinstance(tensor, Tensor)]
        assert len(found) == 12  # twice spectrum, gradient, both moments, the number of steps, the learning rate
        assert {tensor.device for tensor in (ascent._image(), ascent._trace, *found)} == {place}


class Deciding(nn.Module):
    """A network that looks at its values, which no recording can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (0.5,) * 3, (0.25,) * 3
        self.conv = nn.Conv2d(3, 4, 3)
        self.decided = nn.Identity()

    def forward(self, x):
        y = self.conv(x)
        return self.decided(y if float(y.detach().sum()) > 0 else 2 * y)


@pytest.mark.cuda
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cuda_graph_makes_the_images_of_the_steps_one_by_one(variant, gpu, monkeypatch):
    config = replace(CONFIG, steps=24, **VARIANTS[variant])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = featviz.render(tiny(), "bn2:0-4", config, device=gpu)
    monkeypatch.setattr(CudaGraph, "step_runner", Backend.step_runner)
    expected = featviz.render(tiny(), "bn2:0-4", config, device=gpu)
    tolerance = {"float32": 1e-3, "bfloat16": 5e-2}.get(config.precision, 1e-6)
    torch.testing.assert_close(found.images, expected.images, atol=tolerance, rtol=0)


@pytest.mark.cuda
def test_a_network_that_cannot_be_recorded_runs_kernel_by_kernel_and_the_log_says_so(gpu, caplog):
    found = featviz.render(Deciding(), "decided:0-2", replace(CONFIG, precision="float32"), device=gpu)
    assert found.trace.isfinite().all()
    assert gpu.type != "cuda" or "cannot be recorded" in caplog.text
