"""Checkpoints: what fits is loaded exactly, what does not is refused in one sentence that names it."""

import os
import pickle
import zipfile

import pytest
import torch
from networks import TinyCNN, seeded
from safetensors.torch import save_file
from torch import nn

import featviz
from featviz.errors import CheckpointError, ModelError
from featviz.weights.checkpoints import load_into, load_weights
from featviz.weights.checks import check_finite, check_same_architecture, digest


def net(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))
    model[1].running_mean = torch.randn(width)
    return model


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return net(seed=1).state_dict()


def same(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.th"])
def test_weights_come_back_from_every_format(tmp_path, weights, name):
    (save_file if name.endswith("safetensors") else torch.save)(weights, tmp_path / name)
    model = net()
    assert load_into(model, tmp_path / name) == []
    assert same(model, weights)


@pytest.mark.parametrize("wrap", [("state_dict",), ("model",), ("model", "state_dict")])
def test_wrapped_weights_are_unwrapped(tmp_path, weights, wrap):
    content: dict = dict(weights)
    for key in wrap:
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "w.pt")
    assert load_weights(tmp_path / "w.pt").keys() == weights.keys()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_of_all_keys_is_stripped_and_said(tmp_path, weights, prefix):
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "w.pt")
    model = net()
    notes = load_into(model, tmp_path / "w.pt")
    assert same(model, weights)
    assert len(notes) == 1
    assert prefix in notes[0]


def test_half_precision_is_converted_to_the_dtype_of_the_network(tmp_path, weights):
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    save_file(half, tmp_path / "w.safetensors")
    model = net()
    load_into(model, tmp_path / "w.safetensors")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, half["0.weight"].float())


def test_weights_without_batchnorm_counters_load(tmp_path, weights):
    del weights["1.num_batches_tracked"]
    save_file(weights, tmp_path / "w.safetensors")
    assert load_into(net(), tmp_path / "w.safetensors") == []


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def bad_file(kind: str, path, weights):
    good = dict(weights)
    if kind == "missing keys":
        del good["0.weight"], good["0.bias"]
    elif kind == "extra keys":
        good["head.weight"] = torch.ones(1)
    elif kind == "other shape":
        good = net(5).state_dict()
    elif kind == "nan":
        good["3.weight"] = good["3.weight"].clone()
        good["3.weight"][0, 1] = float("nan")
    elif kind == "no weights":
        good = {"epoch": 3, "lr": 0.1}
    elif kind == "pickle":
        good["evil"] = Evil()
    if kind == "missing":
        return path.with_name("absent.pt")
    if kind == "folder":
        return path.parent
    torch.save(good, path)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello, I am a README")
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "cut off safetensors":
        save_file(weights, path)
        path.write_bytes(path.read_bytes()[:-50])
        return path.rename(path.with_suffix(".safetensors"))
    return path


BAD = {
    "missing keys": ["2 missing keys", "0.weight"],
    "extra keys": ["1 extra key", "head.weight"],
    "other shape": ["0.weight", "(5, 3, 3, 3)", "(4, 3, 3, 3)"],
    "nan": ["NaN", "3.weight", "1 of 8"],
    "no weights": ["epoch, lr", "state_dict"],
    "pickle": ["mkdir", "safetensors"],
    "plain pickle": ["or is damaged", "safetensors"],
    "missing": ["does not exist"],
    "folder": ["is a folder"],
    "cut off": ["cut off"],
    "cut off safetensors": ["cut off"],
    "empty": ["is empty"],
    "text": ["no checkpoint"],
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch, weights, kind):
    monkeypatch.chdir(tmp_path)
    model = net()
    before = digest(model)
    path = bad_file(kind, tmp_path / "w.pt", weights)
    with pytest.raises(CheckpointError) as caught:
        load_into(model, path)
    sentence = str(caught.value)
    assert all(part in sentence for part in [str(path), *BAD[kind]])
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert digest(model) == before
    assert not (tmp_path / "owned").exists()


def test_digest_survives_storage_and_layout_and_sees_every_value(tmp_path):
    model = net()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    again = net(seed=5)
    load_into(again, tmp_path / "w.safetensors")
    assert digest(again) == digest(model)
    assert digest(again.to(memory_format=torch.channels_last)) == digest(model)
    assert digest(again.double()) == digest(model)
    again[1].running_mean[2] += 1e-6
    assert digest(again) != digest(model)


def test_digest_sees_shapes_and_names():
    flat, deep = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    deep.weight = nn.Parameter(flat.weight.detach().reshape(2, 3))
    assert digest(flat) != digest(deep)
    assert digest(nn.Sequential(flat)) != digest(flat)


def test_a_nan_in_a_model_is_named():
    model = net()
    model[1].running_var[0] = float("inf")
    with pytest.raises(ModelError, match=r"^B has NaN or Inf in 1\.running_var \(1 of 4"):
        check_finite(model, "B")
    check_finite(net(), "A")


def test_models_of_other_architecture_are_told_apart():
    check_same_architecture(net(), net(seed=3))
    with pytest.raises(ModelError, match=r"0\.weight, \(4, 3, 3, 3\) in A and \(6, 3, 3, 3\) in B"):
        check_same_architecture(net(4), net(6))
    with pytest.raises(ModelError, match=r"1 tensor only in B \(4\.weight\)"):
        check_same_architecture(net(), nn.Sequential(*net(), nn.Linear(2, 2, bias=False)))


def test_an_alignment_in_place_of_a_checkpoint_is_told_so(tmp_path):
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    path = tmp_path / "ab.safetensors"
    featviz.align(a, b, torch.rand(1, 3, 8, 8)).save(path)
    with pytest.raises(CheckpointError, match=r"it is an alignment and no checkpoint"):
        load_into(a, path)


def changed_pickle(path, change, **options):
    """A torch file whose pickle `change` has changed."""
    torch.save({"w": torch.ones(4)}, path, **options)
    if options:
        path.write_bytes(change(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


HUGE = b"\x8a\x08" + (2**40).to_bytes(8, "little")  # a number in a pickle


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}], ids=["archive", "before torch 1.6"]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b"K\x04N", HUGE + b"N").replace(b"K\x04t", HUGE + b"t"),
        lambda content: content.replace(b"QK\x00K\x04", b"QK\x00" + HUGE),
        lambda content: content.replace(b"QK\x00K\x04", b"Q" + HUGE + b"K\x04"),
    ],
    ids=["storage", "shape", "offset"],
)
def test_a_size_is_checked_before_it_is_allocated(tmp_path, options, change, monkeypatch):
    changed_pickle(tmp_path / "w.pt", change, **options)
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="states a tensor of"):
        load_weights(tmp_path / "w.pt")


def test_a_call_for_a_terabyte_is_refused(tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R.")
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="asks for 1099511627776 bytes"):
        load_weights(tmp_path / "w.pt")


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**24))
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="more than 16 times as many"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="it is a pipe or a device"):
        load_weights(tmp_path / name)


def test_a_counter_of_another_shape_is_left_out(tmp_path, weights):
    save_file(weights | {"1.num_batches_tracked": torch.zeros(1, 1)}, tmp_path / "w.safetensors")
    notes = load_into(net(), tmp_path / "w.safetensors")
    assert "left out 1.num_batches_tracked, of another shape" in notes[0]


def test_a_sparse_tensor_is_refused_before_anything_is_loaded(tmp_path, weights):
    torch.save(weights | {"3.bias": weights["3.bias"].to_sparse()}, tmp_path / "w.pt")
    model = net()
    before = digest(model)
    with pytest.raises(CheckpointError, match=r"3\.bias sparse"):
        load_into(model, tmp_path / "w.pt")
    assert digest(model) == before


def test_an_archive_whose_unpacking_needs_gigabytes_is_refused(tmp_path):
    """LZMA says in its header how much memory it needs."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    with pytest.raises(CheckpointError, match="packed by method 14"):
        load_weights(tmp_path / "w.pt")
