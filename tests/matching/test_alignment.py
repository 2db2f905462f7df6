"""An alignment knows its models, survives its file, and its indexer agrees with the activations (P2)."""

import json

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_file
from torch import nn

import featviz
from featviz.errors import AlignmentError, ModelError, UnitError

EXAMPLE = torch.rand(1, 3, 8, 8)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


@pytest.fixture
def alignment(pair) -> featviz.Alignment:
    return featviz.align(*pair, EXAMPLE)


def outputs(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(module, args, output) -> None:
            seen[name] = output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("make", [TinyResNet, TinyCNN])
def test_unit_i_of_permuted_b_is_unit_a_to_b_of_b_at_every_module(make):
    a, b = seeded(make, 0).double(), seeded(make, 1).double()
    alignment = featviz.align(a, b, EXAMPLE.double())
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    ours, theirs = outputs(alignment.permute(b), x), outputs(b, x)
    layers = alignment.indexer.layers
    assert set(layers) == set(ours)
    for layer, width in layers.items():
        axis = alignment.indexer.units(layer).axis
        partners = torch.from_numpy(alignment.indexer.a_to_b(layer, np.arange(width)))
        torch.testing.assert_close(ours[layer], theirs[layer].index_select(axis, partners), rtol=1e-10, atol=1e-12)


def test_the_two_directions_are_inverse(alignment):
    for layer, width in alignment.indexer.layers.items():
        units = np.arange(width)
        back = alignment.indexer.b_to_a(layer, alignment.indexer.a_to_b(layer, units))
        assert (back == units).all()
    assert alignment.indexer.a_to_b("conv1", 3).shape == ()


def test_logits_are_their_own_partners(alignment):
    match = alignment.indexer.match("fc", 2)
    assert (match.a, match.b) == (2, 2)
    assert match.fixed
    assert alignment.indexer.group_of("fc", 2) is None


def test_the_table_has_a_row_per_unit_and_agrees_with_match(alignment):
    rows = alignment.indexer.table("conv3")
    assert [row["a"] for row in rows] == list(range(16))
    assert rows[4]["b"] == alignment.indexer.match("conv3", 4).b
    assert set(rows[0]) == {"layer", "a", "b", "score", "margin", "group"}


def test_layers_of_a_residual_stream_share_their_group(alignment):
    group = alignment.indexer.group_of("conv1", 0)
    assert group is not None
    assert list(alignment.indexer.layers_of(group.name)) == ["conv1", "bn1", "conv2", "bn2"]
    with pytest.raises(UnitError, match="there is no group"):
        alignment.indexer.layers_of("nothing")


@pytest.mark.parametrize(
    ("layer", "unit", "words"),
    [
        ("conv9", 0, r"did you mean conv.*conv1\?$"),
        ("conv1", 8, "conv1 has no unit 8: its 8 units are 0 to 7"),
        ("conv1", -1, "no unit -1"),
        ("conv1", 1.5, "whole numbers"),
    ],
)
def test_a_unit_that_is_not_there_is_one_sentence(alignment, layer, unit, words):
    with pytest.raises(UnitError, match=words):
        alignment.indexer.match(layer, unit)


def test_a_saved_alignment_is_the_same_alignment(alignment, pair, tmp_path):
    alignment.save(tmp_path / "ab.safetensors")
    loaded = featviz.load_alignment(tmp_path / "ab.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["ab.safetensors"]
    assert (loaded.method, loaded.seed) == (alignment.method, alignment.seed)
    assert loaded.matching.objectives == alignment.matching.objectives
    assert loaded.groups.pinned == alignment.groups.pinned
    for layer in alignment.indexer.layers:
        assert loaded.indexer.table(layer) == alignment.indexer.table(layer) or layer == "fc"
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded.permute(pair[1])(x), alignment.permute(pair[1])(x))


def test_an_alignment_refuses_other_models(alignment, pair):
    a, b = pair
    alignment.check(a, b)
    with pytest.raises(AlignmentError, match="belongs to another model A"):
        alignment.check(seeded(TinyResNet, 5), b)
    with pytest.raises(AlignmentError, match="belongs to another model B"):
        alignment.permute(a)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other", "text"])
def test_a_file_that_is_no_alignment_is_one_sentence(alignment, tmp_path, damage):
    path = tmp_path / "ab.safetensors"
    if damage == "truncated":
        alignment.save(path)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(2)}, path)
    elif damage == "text":
        path.write_text("hello")
    with pytest.raises(AlignmentError, match=r"ab\.safetensors"):
        featviz.load_alignment(path)


def test_models_that_do_not_fit_each_other_or_hold_nan_are_refused(pair):
    a, b = pair
    with pytest.raises(ModelError, match=r"differ at conv1\.weight"):
        featviz.align(a, seeded(lambda: TinyResNet(6)), EXAMPLE)
    with torch.no_grad():
        b.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"model B has NaN or Inf in conv2\.weight"):
        featviz.align(a, b, EXAMPLE)


def rewritten(path, name, change):
    """The file with one array, or its structure, changed."""
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if name == "structure":
        structure = json.loads(metadata["structure"])
        change(structure)
        metadata["structure"] = json.dumps(structure)
    else:
        (key,) = [key for key in arrays if key.startswith(name)][:1]
        arrays[key] = change(arrays[key].copy())
    save_file(arrays, path, metadata=metadata)


def with_first(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


DAMAGE = {
    "a permutation with a unit twice": ("permutation/", lambda array: array * 0),
    "a permutation of floats": ("permutation/", lambda array: array.astype(np.float64)),
    "scores of another shape": ("score/", lambda array: array[:1]),
    "an index twice": ("index/", lambda array: array * 0),
    "a negative index": ("index/", with_first(-1)),
    "a unit of no group": ("layers/", with_first(99)),
    "an element of no group": ("layers/", lambda array: array + 1000),
    "units of another width": ("layers/", lambda array: array[:, :1]),
    "a structure of another type": ("structure", lambda s: s.update(groups=3)),
    "a size as text": ("structure", lambda s: s["groups"][0].update(size="4")),
    "blocks that do not divide": ("structure", lambda s: s["groups"][0].update(blocks=3)),
    "an axis that is none": ("structure", lambda s: s["groups"][0]["axes"][0].update(axis=-1)),
    "objectives as text": ("structure", lambda s: s.update(objectives="x")),
    "reasons of another type": ("structure", lambda s: s["sites"].update(layers=[])),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_when_it_is_read(kind, alignment, tmp_path):
    alignment.save(tmp_path / "ab.safetensors")
    rewritten(tmp_path / "ab.safetensors", *DAMAGE[kind])
    with pytest.raises(AlignmentError, match="damaged"):
        featviz.load_alignment(tmp_path / "ab.safetensors")


def test_an_index_that_the_network_does_not_have_is_refused(pair, alignment, tmp_path):
    alignment.save(tmp_path / "ab.safetensors")
    rewritten(tmp_path / "ab.safetensors", "index/", with_first(10**6))
    read = featviz.load_alignment(tmp_path / "ab.safetensors")
    for use in (lambda: read.permute(pair[1]), lambda: read.check(*pair)):
        with pytest.raises(AlignmentError, match="owns index 1000000"):
            use()


def test_blocks_that_the_parameter_does_not_have_are_refused(pair, alignment, tmp_path):
    alignment.save(tmp_path / "ab.safetensors")
    rewritten(
        tmp_path / "ab.safetensors", "structure", lambda s: [a.update(blocks=3) for g in s["groups"] for a in g["axes"]]
    )
    with pytest.raises(AlignmentError, match="in 3 blocks"):
        featviz.load_alignment(tmp_path / "ab.safetensors").permute(pair[1])


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{"])
def test_a_structure_that_cannot_be_read_is_refused(text, tmp_path):
    metadata = {"format": "featviz.alignment", "convention": "B'[i] = B[perm[i]]", "structure": text}
    save_file({"x": np.zeros(1)}, tmp_path / "ab.safetensors", metadata=metadata)
    with pytest.raises(AlignmentError, match="damaged"):
        featviz.load_alignment(tmp_path / "ab.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2])
def test_a_type_that_numpy_has_not_is_refused(dtype, tmp_path):
    torch_file({"x": torch.zeros(4).to(dtype)}, tmp_path / "ab.safetensors")
    with pytest.raises(AlignmentError, match="array x is of type"):
        featviz.load_alignment(tmp_path / "ab.safetensors")
