"""Checkpoints as trainers write them: loaded with notes, asked about, or refused with a remedy (table: docs/checkpoints.md)."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featviz.errors import CheckpointError
from featviz.weights.checkpoints import load_into, load_weights
from featviz.weights.checks import digest

TABLE = Path(__file__).parent.parent.parent / "docs" / "checkpoints.md"


class Net(nn.Module):
    def __init__(self, classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)


class Lightning(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.criterion = model, nn.CrossEntropyLoss(weight=torch.ones(2))


def trained(seed: int = 1, **arguments) -> Net:
    torch.manual_seed(seed)
    model = Net(**arguments)
    model.norm.running_mean = torch.randn_like(model.norm.running_mean)
    return model


def prefixed(prefix: str, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in (model or trained()).state_dict().items()}


def optimizer(model: nn.Module) -> dict:
    made = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    return made.state_dict()


def lightning(w: Net) -> dict:
    best = {"best_k_models": {"epoch=1.ckpt": torch.tensor(0.3)}}
    return {
        "epoch": 1,
        "state_dict": Lightning(w).state_dict(),
        "optimizer_states": [optimizer(trained())],
        "callbacks": {"ModelCheckpoint": best},
    }


def profiled(w: Net) -> dict:
    counts = {
        f"{name}.{key}".lstrip("."): torch.zeros(1) for name in ("", "conv") for key in ("total_ops", "total_params")
    }
    return {**w.state_dict(), **counts}


def halved(w: Net) -> dict:
    return {name: x.half() if x.is_floating_point() else x for name, x in w.state_dict().items()}


def renamed(w: Net) -> dict:
    return {name.replace("conv", "stem").replace("fc", "head"): x for name, x in w.state_dict().items()}


def broken(w: Net) -> dict:
    w.fc.weight.data[0, 1] = torch.nan
    return w.state_dict()


def averaged(w: Net) -> dict:
    return torch.optim.swa_utils.AveragedModel(w).state_dict()


def without_head(w: Net) -> dict:
    return {name: x for name, x in w.state_dict().items() if not name.startswith("fc")}


def training(**entries: object) -> dict:
    return {"epoch": 3, "optimizer": optimizer(trained()), "best_acc": torch.tensor(0.9), **entries}


def two_networks(w: Net) -> dict:
    return {**prefixed("student.", w), **prefixed("teacher.", trained(5))}


# form -> what is saved for the trained network, what happens, and what the notes or the sentence hold
Form = tuple[Callable[[Net], object], str, tuple[str, ...]]
FORMS: dict[str, Form] = {
    "a bare state dict": (lambda w: w.state_dict(), "loaded", ()),
    "`{'state_dict': ...}` beside an optimizer": (
        lambda w: training(state_dict=w.state_dict()),
        "loaded",
        ("'state_dict'",),
    ),
    "`{'model': ...}`": (lambda w: training(model=w.state_dict()), "loaded", ("'model'",)),
    "`{'model_state': ...}`": (lambda w: training(model_state=w.state_dict()), "loaded", ("'model_state'",)),
    "`{'model_state_dict': ...}`": (
        lambda w: training(model_state_dict=w.state_dict()),
        "loaded",
        ("'model_state_dict'",),
    ),
    "`{'params': ...}` (BasicSR)": (lambda w: {"params": w.state_dict()}, "loaded", ("'params'",)),
    "`{'params_ema': ...}` alone": (lambda w: {"params_ema": w.state_dict()}, "loaded", ("'params_ema'",)),
    "`{'ema': ...}`": (lambda w: training(ema={"shadow": w.state_dict(), "decay": 0.9}), "loaded", ("'ema/shadow'",)),
    "`{'net': ...}`": (lambda w: {"net": w.state_dict(), "acc": 93.0, "epoch": 1}, "loaded", ("'net'",)),
    "a state dict in a list": (
        lambda w: {"state_dict": [w.state_dict()], "err": torch.tensor(0.2)},
        "loaded",
        ("'state_dict'",),
    ),
    "`module.` of DataParallel": (lambda w: nn.DataParallel(w).state_dict(), "loaded", ("'module.' from all 9",)),
    "`_orig_mod.` of torch.compile": (lambda w: prefixed("_orig_mod.", w), "loaded", ("'_orig_mod.'",)),
    "`module._orig_mod.`": (lambda w: prefixed("module._orig_mod.", w), "loaded", ("'module._orig_mod.'",)),
    "Lightning: `model.`, a loss, callbacks": (lightning, "loaded", ("'model.'", "ignored criterion.weight")),
    "`net.`": (lambda w: prefixed("net.", w), "loaded", ("'net.'",)),
    "`backbone.` beside a projector": (
        lambda w: {**prefixed("backbone.", w), "projector.weight": torch.ones(2, 2)},
        "loaded",
        ("'backbone.'", "ignored projector.weight"),
    ),
    "`encoder.`": (lambda w: prefixed("encoder.", w), "loaded", ("'encoder.'",)),
    "AveragedModel: `module.` and `n_averaged`": (averaged, "loaded", ("'module.'", "ignored n_averaged")),
    "float16": (halved, "loaded", ("float16 to float32",)),
    "`total_ops` and `total_params` of a profiler": (profiled, "loaded", ("total_ops", "4 in all")),
    "buffers of a loss": (
        lambda w: {**w.state_dict(), "loss_fn.pos_weight": torch.ones(2)},
        "loaded",
        ("loss_fn.pos_weight",),
    ),
    "an epoch among the weights": (lambda w: {**w.state_dict(), "epoch": 7}, "loaded", ("ignored epoch",)),
    "arguments and NumPy numbers beside the weights": (
        lambda w: {"model": w.state_dict(), "args": argparse.Namespace(lr=0.1), "acc": np.float32(0.9)},
        "loaded",
        ("'model'",),
    ),
    "another network beside it": (
        lambda w: {"model": w.state_dict(), "discriminator": nn.Linear(3, 3).state_dict()},
        "loaded",
        ("left out 'discriminator'",),
    ),
    "`model` and `model_ema`": (
        lambda w: training(model=w.state_dict(), model_ema=averaged(trained(2))),
        "asked",
        ("'model', 'model_ema':", "--key model_ema"),
    ),
    "`state_dict` and `state_dict_ema`": (
        lambda w: {"state_dict": w.state_dict(), "state_dict_ema": trained(2).state_dict()},
        "asked",
        ("'state_dict', 'state_dict_ema'", "--key state_dict_ema"),
    ),
    "`params` and `params_ema`": (
        lambda w: {"params": w.state_dict(), "params_ema": trained(2).state_dict()},
        "asked",
        ("'params', 'params_ema'",),
    ),
    "`student.` and `teacher.` in one state dict": (two_networks, "asked", ("'student', 'teacher'", "--key teacher")),
    "another number of classes": (
        lambda w: trained(classes=7).state_dict(),
        "refused",
        ("fc.weight, (7, 4) in the file and (2, 4)", "num_classes=7"),
    ),
    "a network without its head": (without_head, "refused", ("2 missing keys (fc.weight, fc.bias)", "without these")),
    "a network with more layers": (
        lambda w: {**w.state_dict(), "more.weight": torch.ones(2, 2)},
        "refused",
        ("1 extra key (more.weight)", "the architecture that has them"),
    ),
    "modules of other names": (renamed, "refused", ("stem.weight with conv.weight", "rename the keys")),
    "another architecture": (
        lambda w: nn.Sequential(nn.Linear(2, 2)).state_dict(),
        "refused",
        ("8 missing keys", "2 extra keys (0.weight, 0.bias)", "not one name is shared"),
    ),
    "another width": (
        lambda w: trained(width=5).state_dict(),
        "refused",
        ("conv.weight, (5, 3, 3, 3) in the file", "arguments"),
    ),
    "NaN": (broken, "refused", ("NaN", "fc.weight", "1 of 8")),
    "an optimizer alone": (lambda w: optimizer(w), "refused", ("the keys state, param_groups", "state_dict")),
    "a whole module": (
        lambda w: nn.Sequential(nn.Linear(2, 2)),
        "refused",
        ("holds more than weights", "state_dict() with safetensors"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_form_is_loaded_asked_about_or_refused(tmp_path, form):
    make, outcome, parts = FORMS[form]
    path = tmp_path / "w.pt"
    torch.save(make(trained()), path)
    model = trained(9)
    before = digest(model)
    if outcome == "loaded":
        said = " ".join(load_into(model, path))
        expected = trained().half().float() if form == "float16" else trained()
        assert digest(model) == digest(expected)
    else:
        with pytest.raises(CheckpointError) as caught:
            load_into(model, path)
        said = str(caught.value)
        assert digest(model) == before
        assert said.count("\n") == 0
        assert said.endswith(".")
        assert ("choose one" in said) == (outcome == "asked")
    assert all(part in said for part in parts), said
    assert (str(path) in said) == (outcome != "loaded" or bool(parts))


def test_the_table_of_the_documents_is_this_one():
    rows = [line.strip("| ").split(" | ")[:2] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    assert dict(rows[1:]) == {form: outcome for form, (_, outcome, _) in FORMS.items()}


@pytest.mark.parametrize(
    ("content", "key", "seed"),
    [
        (lambda: {"model": prefixed(""), "model_ema": averaged(trained(2))}, "model", 1),
        (lambda: {"model": prefixed(""), "model_ema": averaged(trained(2))}, "model_ema", 2),
        (lambda: {"model": prefixed(""), "model_ema": averaged(trained(2))}, "model_ema/module", 2),
        (lambda: {"state_dict": two_networks(trained())}, "student", 1),
        (lambda: {"state_dict": two_networks(trained())}, "teacher.", 5),
        (lambda: {"state_dict": two_networks(trained())}, "state_dict/teacher", 5),
        (lambda: {"ema": {"shadow": prefixed("")}}, "ema/shadow", 1),
    ],
)
def test_a_key_chooses_among_several(tmp_path, content, key, seed):
    torch.save(content(), tmp_path / "w.pt")
    model = trained(9)
    load_into(model, tmp_path / "w.pt", key=key)
    assert digest(model) == digest(trained(seed))


def test_a_key_that_does_not_exist_leads_to_one_that_does(tmp_path):
    torch.save({"model": prefixed(""), "model_ema": prefixed("")}, tmp_path / "w.pt")
    for load in (
        lambda: load_into(trained(), tmp_path / "w.pt", key="modle"),
        lambda: load_weights(tmp_path / "w.pt", "modle"),
    ):
        with pytest.raises(CheckpointError, match="under 'modle', did you mean model"):
            load()
    with pytest.raises(CheckpointError, match="choose one"):
        load_weights(tmp_path / "w.pt")
    assert load_weights(tmp_path / "w.pt", "model_ema").keys() == trained().state_dict().keys()


def test_the_networks_own_prefix_is_put_before_the_keys(tmp_path):
    torch.save(prefixed("module."), tmp_path / "w.pt")
    for model in (nn.Sequential(trained(9)), nn.DataParallel(trained(9))):
        load_into(model, tmp_path / "w.pt")
        assert digest(next(model.children())) == digest(trained())


def test_infinite_buffers_are_loaded_and_infinite_statistics_and_weights_refused(tmp_path):
    model = trained()
    model.register_buffer("limits", torch.tensor([-torch.inf, torch.inf]))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    load_into(model, tmp_path / "w.safetensors")
    for name in ("norm.running_var", "fc.weight"):
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        weights[name].view(-1)[0] = torch.inf
        save_file(weights, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match=f"NaN or Inf in {name}"):
            load_into(model, tmp_path / "w.safetensors")


def test_a_torchscript_program_is_named(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"is a TorchScript program: load it with torch\.jit\.load"):
        load_into(trained(), tmp_path / "w.pt")
