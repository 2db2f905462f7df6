"""Every backend computes what the eager one does, whatever a network does with its gradient; the report tells which ran."""

import threading
import time
from dataclasses import replace

import pytest
import torch
import torchvision
from networks import (
    Cardinal,
    Decides,
    Depthwise,
    Grouped,
    GroupNormStem,
    Heads,
    Norms,
    TinyCNN,
    TinyResNet,
    seeded,
)
from odd_networks import (
    PARTS,
    Awkward,
    Bends,
    Branching,
    Closed,
    Counts,
    Keeps,
    Odd,
    Part,
    Scaled,
    Strict,
    Tied,
    weight_normed,
)
from torch import Tensor, nn

import featviz
from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering import FeatureExtractor, channel, render

CONFIG = RenderConfig(size=16, steps=3, precision="float32", sd=0.1)


def with_part(name: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), Part(name), nn.Conv2d(4, 4, 3)
    )


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.patch(x).flatten(2).mT)


class Counting(nn.Module):
    """Goes by how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) if self.calls < 10**6 else 0 * self.conv(x)


TRACED = {
    **{name: lambda name=name: with_part(name) for name in (*PARTS, "module hook")},
    "tied weights": Tied,
    "scaled by a norm's weight": Scaled,
    "closure": Closed,
    "switches autocast off": Strict,
    "weight_norm and pruning": weight_normed,
    "odd": Odd,
    "keeps a tensor for every shape": Keeps,
    "tiny resnet": TinyResNet,
    "tiny cnn": TinyCNN,
    "awkward": Awkward,
    "bends": Bends,
    "group norm": GroupNormStem,
    "grouped": Grouped,
    "norms": Norms,
    "cardinal": Cardinal,
    "depthwise": Depthwise,
    "tokens": Tokens,
    "attention": lambda: Heads("cosine"),
    "attention with a bias table": lambda: Heads("a bias table"),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 8),
    "resnext": lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32),
}
EAGER = {  # and why
    "branch on values": (Decides, "decides by values"),
    "branch on values between norms": (Branching, "decides by values"),
    "buffers written in forward": (Counts, "a forward pass changes"),
    "goes by its calls": (Counting, "changes calls"),
}
SIZES = {"attention": 8, "attention with a bias table": 8, "vit": 32, "bends": 33, "densenet": 64, "resnext": 64}
SIZES |= {"mobilenet": 64, "shufflenet": 64}


def assert_equal(a: Tensor, b: Tensor, name: str) -> None:
    """For most of the images: rounding may switch a ReLU near 0, which moves an image's gradient by more than rounding."""
    errors = (a - b).flatten(1).norm(dim=1) - 2e-4 * b.flatten(1).norm(dim=1)
    assert float(errors.median()) <= 1e-7, name


@pytest.mark.parametrize("name", [*TRACED, *EAGER])
def test_auto_and_eager_give_the_same_activations_and_gradients(name):
    make, reason = (TRACED[name], None) if name in TRACED else EAGER[name]
    model = seeded(make)
    size = SIZES.get(name, 16)
    images = 1 if name == "awkward" else 5  # its batches' statistics couple their images
    x = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = []
    for backend in ("auto", "eager"):
        extractor = FeatureExtractor(
            model, ("labels",), replace(CONFIG, size=size, backend=backend, mean=(0.5,) * 3, std=(0.25,) * 3)
        )
        for _ in range(2):  # the second of one shape, as in an ascent
            y = x.clone().requires_grad_()
            output = extractor(y)["labels"]
            (gradient,) = torch.autograd.grad(output.square().sum(), y)
        found.append((output.detach(), gradient, extractor.report))
    (ours, gradient, report), (theirs, expected, eager) = found
    assert_equal(ours, theirs, "activation")
    assert_equal(gradient, expected, "gradient")
    assert eager.reason == "asked for"
    assert report.backend == ("eager" if reason else "traced graph")
    assert reason is None or reason in str(report)


@pytest.mark.parametrize("name", [*PARTS, "module hook"])
def test_a_gradient_of_its_own_is_that_of_the_ascent_in_bfloat16(name):
    extractor = FeatureExtractor(seeded(lambda: with_part(name)), ("5",), replace(CONFIG, precision="bfloat16"))
    x = torch.rand(2, 3, 12, 12, requires_grad=True)
    rough, precise = (
        torch.autograd.grad(extractor(x, precise=p)["5"].float().square().sum(), x)[0] for p in (False, True)
    )
    assert extractor.report.backend == "traced graph"
    assert torch.cosine_similarity(rough.flatten(), precise.flatten(), 0) > 0.98


def test_an_objective_that_writes_into_an_activation_is_told_so_and_corrupts_nothing():
    """The graph keeps the output of a ReLU for its gradient."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    extractor = FeatureExtractor(model, ("1",), CONFIG)
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    output = extractor(x)["1"]
    assert extractor.report.backend == "traced graph"
    score = (output * 2).sum()
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        score.backward()


def test_a_backend_that_is_none_is_refused():
    with pytest.raises(RenderError, match="backend is 'fast': use one of auto, eager"):
        RenderConfig(backend="fast")


def test_every_layer_says_how_it_is_run(caplog):
    caplog.set_level("INFO", "featviz")
    render(seeded(TinyResNet), ["conv1:0", "conv2:0-1"], CONFIG)
    lines = [record.getMessage() for record in caplog.records if record.name == "featviz.backends"]
    assert lines == [
        "conv1 on 1 x 3 x 16 x 16 images: traced graph (onednn_conv x 1)",
        "conv2 on 2 x 3 x 16 x 16 images: traced graph (fold_batchnorm x 1, onednn_conv x 2)",
    ]


def passes(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in every forward pass of copies of a network, as they come."""
    seen: list[int] = []
    plain = type(model).forward

    def forward(self, x):
        seen.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(type(model), "forward", forward)
    return seen


def test_many_specs_of_one_layer_cost_no_more_forward_passes_than_one(monkeypatch):
    model = seeded(TinyResNet)
    seen = passes(model, monkeypatch)
    render(model, "conv2:0-7", replace(CONFIG, batch=8))
    one = len(seen)
    seen.clear()
    render(model, [f"conv2:{unit}" for unit in range(8)], replace(CONFIG, batch=8))
    assert len(seen) == one


def test_the_search_for_a_callables_layers_runs_each_of_them_once(monkeypatch):
    model = seeded(TinyResNet)
    seen = passes(model, monkeypatch)
    whole = channel("conv2", 0) + channel("conv1", 1)
    render(model, whole, CONFIG)
    known = len(seen)
    seen.clear()
    render(model, lambda T: -(T("conv2")[:, 0].mean() + T("conv1")[:, 1].mean() + T("conv2")[:, 2].mean()), CONFIG)
    assert len(seen) <= known + 2


def run_while(work, other) -> None:
    """`other`, again and again in another thread, while `work` runs."""
    stop, failures = threading.Event(), []

    def repeat() -> None:
        try:
            while not stop.is_set():
                other()
                time.sleep(0)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        work()
    finally:
        stop.set()
        thread.join(60)
    assert not failures


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_the_callers_network_may_be_run_trained_and_differentiated_meanwhile(backend):
    config = replace(CONFIG, steps=12, backend=backend)
    model = seeded(TinyResNet)
    for norm in (model.bn1, model.bn2):
        norm.momentum = 0.0  # training moves no statistics, so that the images to expect are known
    expected = render(model, "conv2:0-3", config)
    images = torch.rand(4, 3, 16, 16)
    modes = []

    def use() -> None:
        model.train()
        modes.append(all(module.training for module in model.modules()))
        model.zero_grad()
        model(images).square().sum().backward()
        modes.append(all(weight.requires_grad and weight.grad is not None for weight in model.parameters()))
        model.eval()
        modes.append(not any(module.training for module in model.modules()))

    found = []
    run_while(lambda: found.append(render(model, "conv2:0-3", config)), use)
    torch.testing.assert_close(found[0].images, expected.images, atol=2e-2, rtol=0)
    assert modes
    assert all(modes)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_optimizers_step_meanwhile_is_no_error():
    model = seeded(TinyResNet)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def train() -> None:
        optimizer.zero_grad()
        model.train()(torch.rand(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()

    run_while(lambda: render(model, "fc", replace(CONFIG, steps=12, backend="eager")), train)


def test_two_threads_render_two_networks_at_once_and_both_are_right():
    models = [seeded(TinyResNet, seed) for seed in (0, 1)]
    config = replace(CONFIG, steps=12)
    expected = [render(model, "conv2:0-3", config).score for model in models]
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        found[number] = render(models[number], "conv2:0-3", config).score

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, score in enumerate(expected):
            torch.testing.assert_close(found[number], score, rtol=1e-3, atol=1e-4)


class Masked(nn.Module):
    """An image and a mask of its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, mask: Tensor, factor: float) -> Tensor:
        return self.conv(x) * mask * factor


def test_further_inputs_are_given_once_for_all_images():
    model, mask = seeded(Masked), torch.rand(1, 4, 14, 14, dtype=torch.float64)
    found = render(model, "labels:0-3", CONFIG, inputs=(mask, 2.0))
    bound = nn.Sequential(Call(model, mask.float(), 2.0))
    torch.testing.assert_close(found.score, render(bound, "0:0-3", CONFIG).score, rtol=0.2, atol=0.05)
    assert len(found) == 4


def test_a_panels_networks_get_the_further_inputs_too():
    model, mask = seeded(Masked), torch.rand(1, 4, 14, 14)
    panel = featviz.render_panel({"A": model, "B": model}, "conv", [0, 1], config=CONFIG, inputs=(mask, 2.0))
    torch.testing.assert_close(panel.renderings["A"].images, panel.renderings["B"].images)


class Call(nn.Module):
    def __init__(self, model: nn.Module, *inputs: object) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, *self.inputs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Conv3d(3, 8, 3)), "0 is a Conv3d, which takes volumes"),
        (lambda: nn.Sequential(nn.Conv1d(3, 8, 3)), "begins with a Conv1d, which takes sequences"),
        (Masked, r"forward takes \(x, mask, factor\) and got the images and 0 further inputs"),
    ],
)
def test_a_network_on_something_else_than_images_is_told_so_with_a_remedy_that_works(make, words):
    model = make()
    with pytest.raises(featviz.FeatvizError, match=words) as caught:
        render(model, "labels:0-7", replace(CONFIG, size=12))
    assert "larger size" not in str(caught.value)


def test_a_normalization_of_other_channels_than_the_network_takes_is_named():
    subject = featviz.Subject(nn.Sequential(nn.Conv2d(4, 8, 3)), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(featviz.FeatvizError, match=r"takes images of 4 channels and gets 3.*give 4 values of each"):
        render(subject, "0:0", replace(CONFIG, size=12))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv3d(3, 8, (1, 3, 3))),
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 8, 3)),
    ],
)
def test_a_module_that_makes_volumes_or_sequences_of_images_renders(wrapped):
    found = render(seeded(wrapped), "1:0-7", replace(CONFIG, size=12))
    assert len(found) == 8
    assert not found.dead.any()


def test_the_verdict_on_a_start_does_not_outlive_the_ascent(monkeypatch):
    from featviz.rendering.optimize import restarts

    monkeypatch.setattr(
        restarts, "has_gradient", lambda extractor, objective, starts, *rest, **more: torch.zeros(len(starts)) > 0
    )
    found = render(seeded(TinyResNet), "conv2:0-1", replace(CONFIG, restarts=1))
    assert not found.dead.any()


def test_dead_units_of_an_objective_are_named_and_the_advice_helps():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[2] *= 0.1
        model[0].bias[2] = -1.0
    config = replace(CONFIG, size=8, sd=0.01, restarts=1)
    with pytest.warns(
        UserWarning, match=r"^1:2: no usable .* take the layer before the ReLU, or a larger sd \(it is 0.01\)"
    ):
        found = render(model, featviz.neuron("1", 2), config)
    assert found.dead.all()
    assert not render(model, featviz.neuron("0", 2), config).dead.any()
