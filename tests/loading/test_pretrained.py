"""Weights by name: the real loading code of torchvision and timm, from caches that the tests make."""

import os
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from torch import nn

import featviz
from featviz.errors import CheckpointError, ModelError
from featviz.networks.architectures import build
from featviz.networks.pretrained import is_weights_name
from featviz.subjects import input_normalization
from featviz.weights.checks import digest

TORCHVISION, TORCHVISION_FILE = "torchvision:squeezenet1_1/IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth"
TIMM = "test_resnet.r160_in1k"


@pytest.fixture
def torchvision_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints" / TORCHVISION_FILE


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hugging Face hub, without a connection to it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_hub(hub: Path, repository: str, model: nn.Module) -> None:
    """What a download of the repository leaves in the cache."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    timm.models.save_for_hf(model, snapshot, safe_serialization=True)


def test_torchvision_weights_by_name(torchvision_file):
    torch.manual_seed(0)
    expected = torchvision.models.squeezenet1_1()
    torch.save(expected.state_dict(), torchvision_file)
    said: list[str] = []
    for name in (TORCHVISION, "torchvision:squeezenet1_1"):
        model = featviz.load(name, say=said.append)
        assert digest(model) == digest(expected)
        assert not model.training
    assert said == ["torchvision:squeezenet1_1: took IMAGENET1K_V1, the default weights."]
    normalization = input_normalization(model)
    assert (normalization.mean, normalization.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in normalization.source


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_torchvision_weights_are_never_unpickled(torchvision_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), torchvision_file)
    with pytest.raises(CheckpointError, match=r"remove that file.*damaged") as caught:
        featviz.load(TORCHVISION)
    assert str(torchvision_file) in str(caught.value)
    assert not Path("owned").exists()


def test_without_a_connection_the_file_to_download_is_named(torchvision_file, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(CheckpointError, match=f"no route to host.*: download https://.*{TORCHVISION_FILE} to "):
        featviz.load(TORCHVISION)


@pytest.mark.parametrize("name", [f"timm:{TIMM}", "timm:test_resnet", f"hf-hub:timm/{TIMM}", "hf-hub:someone/network"])
def test_timm_weights_by_name(hub, name):
    torch.manual_seed(1)
    expected = timm.create_model("test_resnet")
    repository = name.removeprefix("hf-hub:") if name.startswith("hf-hub") else f"timm/{TIMM}"
    put_in_hub(hub, repository, expected)
    said: list[str] = []
    model = featviz.load(name, say=said.append)
    assert digest(model) == digest(expected)
    assert not model.training
    assert len(said) == (name == "timm:test_resnet")
    normalization = input_normalization(model)
    assert list(normalization.mean) == list(model.pretrained_cfg["mean"])
    assert normalization.source == "timm's pretrained_cfg"


@pytest.mark.parametrize("name", [f"timm:{TIMM}", "hf-hub:someone/network"])
def test_weights_that_the_hub_does_not_give_are_named(hub, name):
    with pytest.raises(CheckpointError, match=f"^{name} cannot be loaded.*give a downloaded file"):
        featviz.load(name)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torchvision:resnet55", "no network 'resnet55', did you mean resnet50"),
        ("torchvision:resnet50/IMAGENET1K_V3", "no weights 'IMAGENET1K_V3', did you mean IMAGENET1K_V2"),
        ("torchvision:resnet50/imagenet", "there are IMAGENET1K_V1"),
        ("timm:resnet500.a1_in1k", r"no network 'resnet500', did you mean resnet50\.a1_in1k"),
        ("timm:resnet50.a1_in2k", "no weights 'a1_in2k', did you mean a1_in1k"),
        ("resnet50", "no file, and no name of weights.*torchvision:resnet50"),
    ],
)
def test_an_unknown_name_leads_to_a_near_one(name, part):
    with pytest.raises(ModelError, match=part):
        featviz.load(name)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for make in (
        lambda: featviz.load(f"timm:{TIMM}"),
        lambda: featviz.load("hf-hub:a/b"),
        lambda: build("timm:resnet18"),
    ):
        with pytest.raises(ModelError, match=r"needs timm: pip install 'featviz\[timm\]'"):
            make()


def test_a_file_is_loaded_into_an_architecture_by_name_callable_or_example(tmp_path):
    torch.manual_seed(0)
    trained = build("timm:test_resnet", num_classes=3)
    torch.save(
        {"model": trained.state_dict(), "model_ema": build("timm:test_resnet", num_classes=3).state_dict()},
        tmp_path / "a.pt",
    )
    example = timm.create_model("test_resnet", num_classes=3)
    before = digest(example)
    for arch, arguments in (
        ("timm:test_resnet", {"num_classes": 3}),
        (lambda: timm.create_model("test_resnet", num_classes=3), None),
        (example, None),
    ):
        model = featviz.load(tmp_path / "a.pt", arch, key="model", arguments=arguments)
        assert digest(model) == digest(trained)
        assert not model.training
    assert digest(example) == before
    with pytest.raises(CheckpointError, match="choose one"):
        featviz.load(tmp_path / "a.pt", example)
    with pytest.raises(ModelError, match="is a checkpoint file: give arch="):
        featviz.load(tmp_path / "a.pt")
    with pytest.raises(ModelError, match="leave out arch"):
        featviz.load(TORCHVISION, "resnet18")


def test_names_of_weights_are_told_from_paths():
    assert all(map(is_weights_name, (TORCHVISION, f"timm:{TIMM}", "hf-hub:a/b")))
    assert not any(map(is_weights_name, ("a.pth", Path("a.pth"), "mynets:make", "resnet20-x2")))


def test_an_unknown_architecture_of_timm_leads_to_a_near_one():
    with pytest.raises(ModelError, match="timm has no architecture 'resnet1o1', did you mean resnet101"):
        build("timm:resnet1o1")
