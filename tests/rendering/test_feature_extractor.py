"""A network cut at a layer: what it gives, what it leaves alone, and what it says."""

import pytest
import torch
from torch import nn

from featviz.config import RenderConfig
from featviz.errors import DeviceError, ModelError, RenderError, UnitError
from featviz.rendering import FeatureExtractor, recorded_layers, resolve_device
from featviz.subjects import input_normalization

FLOAT32 = RenderConfig(size=8, precision="float32")


class Net(nn.Module):
    """Convolutions with in-place ReLUs, one of them shared, a dropout, and a head that is not used in eval mode."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(5, 6)
        self.extra = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.relu(self.conv1(x)))
        x = self.drop(self.relu(x - 0.1)).mean((2, 3))
        return self.extra(x) if self.training else self.fc(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def state(model: nn.Module):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [weight.requires_grad for weight in model.parameters()],
        [weight.grad for weight in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        torch.backends.mha.get_fastpath_enabled(),
    )


def assert_untouched(model: nn.Module, before) -> None:
    after = state(model)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in after[0])
    assert before[1:] == after[1:]


def normalised(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    return input_normalization(model)(x)


def test_the_activation_is_the_modules_own_output_before_an_inplace_relu(net):
    x = torch.rand(2, 3, 8, 8)
    extractor = FeatureExtractor(net, ("conv1", "block.1"), FLOAT32)
    found = extractor(x)
    conv1 = net.conv1(normalised(x, net))
    block = net.block.eval()
    torch.testing.assert_close(found["conv1"], conv1)
    torch.testing.assert_close(found["block.1"], block[1](block[0](conv1.relu())))
    assert found["conv1"].min() < 0


@pytest.mark.parametrize("layer", ["conv1", "block.1"])
def test_the_gradient_is_that_of_the_layer_before_the_inplace_relu(net, layer):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    extractor = FeatureExtractor(net, (layer, "block.2"), FLOAT32)
    extractor(x)[layer].sum().backward()
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    y = x.detach().clone().requires_grad_()
    extractor = FeatureExtractor(net, (layer,), FLOAT32)
    extractor(y)[layer].sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_the_network_stops_at_the_last_layer_needed(net):
    called = []
    net.block[1].register_forward_hook(lambda *_: called.append("block.1"))
    net.fc.register_forward_hook(lambda *_: called.append("fc"))
    extractor = FeatureExtractor(net, ("block.0", "conv1"), FLOAT32)
    extractor(torch.rand(1, 3, 8, 8))
    assert called == []
    extractor = FeatureExtractor(net, ("labels",), FLOAT32)
    assert extractor(torch.rand(1, 3, 8, 8))["labels"].shape == (1, 6)
    assert set(called) == {"block.1", "fc"}


def test_a_shared_module_gives_its_first_output(net):
    extractor = FeatureExtractor(net, ("relu", "labels"), FLOAT32)
    assert extractor(torch.rand(1, 3, 8, 8))["relu"].shape[1] == 4


def test_the_gradient_reaches_the_image_and_no_weight(net):
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    extractor = FeatureExtractor(net, ("fc",), FLOAT32)
    extractor(x)["fc"].sum().backward()
    assert not any(weight.requires_grad for weight in extractor.net.parameters())
    assert all(weight.requires_grad for weight in net.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_the_model_comes_back_as_it_was(net, precision):
    net.train()
    net.block.eval()
    net.fc.bias.requires_grad_(False)
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    before = state(net)
    extractor = FeatureExtractor(net, ("fc",), RenderConfig(size=8, precision=precision))
    extractor(torch.rand(2, 3, 8, 8, dtype=extractor.dtype))
    assert_untouched(net, before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_model_comes_back_as_it_was_also_after_an_error(net, error):
    before = state(net)

    def fails() -> None:
        extractor = FeatureExtractor(net, ("fc",), FLOAT32)
        extractor(torch.rand(2, 3, 8, 8))
        raise error

    with pytest.raises(error):
        fails()
    assert_untouched(net, before)


def test_two_extractors_of_one_model_do_not_see_each_other(net):
    x = torch.rand(1, 3, 8, 8)
    early, late = FeatureExtractor(net, ("conv1",), FLOAT32), FeatureExtractor(net, ("conv1", "fc"), FLOAT32)
    assert late(x).keys() == {"conv1", "fc", "input"}
    assert torch.equal(early(x)["conv1"], late(x)["conv1"])


def test_names_may_be_written_as_lucent_does(net):
    extractor = FeatureExtractor(net, ("block_1", "input"), FLOAT32)
    x = torch.rand(1, 3, 8, 8)
    found = extractor(x)
    assert found["block_1"].shape == (1, 5, 8, 8)
    assert found["input"] is x


def test_an_unknown_layer_is_named_with_its_neighbours(net):
    with pytest.raises(UnitError, match=r"no layer 'block\.11': did you mean block\.1"):
        FeatureExtractor(net, ("block.11",), FLOAT32)


def test_a_layer_that_is_not_called_is_named(net):
    extractor = FeatureExtractor(net, ("extra",), FLOAT32)
    with pytest.raises(UnitError, match="extra but does not call it"):
        extractor(torch.rand(1, 3, 8, 8))


def test_a_size_that_the_network_cannot_take_is_said_with_the_remedy():
    model = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Conv2d(2, 2, 5))
    extractor = FeatureExtractor(model, ("1",), RenderConfig(size=6, precision="float32"))
    with pytest.raises(
        RenderError, match=r"cannot take images of 3 x 6 x 6 \(.*Kernel size.*it takes 12 x 12 pixels, give size=12"
    ):
        extractor(torch.rand(1, 3, 6, 6))
    assert FeatureExtractor(model, ("1",), RenderConfig(size=12))(torch.rand(1, 3, 12, 12))["1"].shape == (1, 2, 4, 4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_is_never_swallowed(net, error):
    def hook(*_):
        raise error

    net.block.register_forward_hook(hook)
    extractor = FeatureExtractor(net, ("fc",), FLOAT32)
    with pytest.raises(type(error)) as caught:
        extractor(torch.rand(1, 3, 8, 8))
    assert caught.value is error


def test_outputs_without_tensors_are_refused():
    class Text(nn.Module):
        def forward(self, x):
            return {"words": "none"}

    extractor = FeatureExtractor(Text(), ("labels",), FLOAT32)
    with pytest.raises(ModelError, match="without a tensor"):
        extractor(torch.rand(1, 3, 8, 8))


def test_a_tuple_gives_its_first_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return None, [x.mean((2, 3)), x]

    extractor = FeatureExtractor(Pair(), ("labels",), FLOAT32)
    assert extractor(torch.rand(2, 3, 8, 8))["labels"].shape == (2, 3)


def test_layers_within_a_transformer_are_seen_without_gradients_too():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.block(self.patch(x).flatten(2).mT)

    extractor = FeatureExtractor(Tokens(), ("block.linear1",), FLOAT32)
    with torch.no_grad():
        assert extractor(torch.rand(2, 3, 8, 8))["block.linear1"].shape == (2, 4, 16)


def test_bfloat16_and_precise_runs_agree_roughly_and_float64_closely(net):
    x = torch.rand(2, 3, 8, 8)
    extractor = FeatureExtractor(net, ("fc",), RenderConfig(size=8, precision="bfloat16"))
    rough, precise = extractor(x)["fc"], extractor(x, precise=True)["fc"]
    extractor = FeatureExtractor(net, ("fc",), RenderConfig(size=8, precision="float64"))
    exact = extractor(x.double())["fc"]
    assert (rough.dtype, precise.dtype, exact.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    torch.testing.assert_close(precise.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rough.double(), exact, atol=0.05, rtol=0.05)


def test_the_layers_of_a_callable_are_recorded(net):
    asked = recorded_layers(
        lambda T: T("conv1").mean() + T("block_1").mean() + T("input").mean(),
        FeatureExtractor(net, (), FLOAT32),
        torch.rand(2, 3, 8, 8),
    )
    assert asked == ("conv1", "block_1", "input")


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "cuda:3 is not there: this machine has no CUDA device; use device='cpu'"
    with pytest.raises(DeviceError, match=message):
        resolve_device("cuda:3")
    with pytest.raises(DeviceError, match="is no device"):
        resolve_device("gpu7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        resolve_device("cuda:3")
    assert resolve_device(None, nn.Conv2d(1, 1, 1)) == torch.device("cpu")
