"""Permutations are exchanged with other tools exactly, by the axes that they permute, or refused in one sentence."""

import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from networks import Cardinal, Heads, TinyCNN, TinyResNet, planted, relative_difference, seeded
from torch import Tensor, nn

import featviz
from featviz.errors import AlignmentError, OutputError
from featviz.matching.exchange.permutation_files import INVERSE

EXAMPLE = torch.rand(1, 3, 8, 8)
NETWORKS = {
    "residual": TinyResNet,
    "flattened": TinyCNN,
    "grouped": Cardinal,
    "heads": lambda: Heads("nothing"),
    "heads that own a bias": lambda: Heads("a bias table"),
    "concatenated": lambda: Joined(),
    "tied": lambda: Tied(),
}
# TinyResNet as Git Re-Basin would describe it: its buffers are not in the table
SPEC = {
    "conv1.weight": ("P_bg0", None, None, None),
    "bn1.weight": ("P_bg0",),
    "bn1.bias": ("P_bg0",),
    "conv2.weight": ("P_bg0", "P_bg0", None, None),
    "bn2.weight": ("P_bg0", None),  # C2M3 writes some vectors so
    "bn2.bias": ("P_bg0",),
    "conv3.weight": ("P_bg1", "P_bg0", None, None),
    "conv3.bias": ("P_bg1",),
    "fc.weight": (None, "P_bg1"),
    "fc.bias": (None,),
}


class Joined(nn.Module):
    """Two convolutions beside the input, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), x, self.right(x)], 1))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Conv2d(3, 6, 8), *(nn.Linear(6, 6) for _ in "ab"), nn.Linear(6, 2)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.stem(x).flatten(1)))))))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


@pytest.fixture
def perms() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"P_bg0": random.permutation(8), "P_bg1": random.permutation(16)}


def read(source, pair, **options) -> featviz.Alignment:
    """Nothing is warned of but what a test expects."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return featviz.read_permutations(source, *pair, EXAMPLE, **options)


def applied(spec: dict, perms: dict, model: nn.Module) -> dict[str, Tensor]:
    """B's weights as another tool permutes them, which knows nothing of featviz."""
    weights = {}
    for key, value in model.state_dict().items():
        for axis, name in enumerate(spec[key]):
            value = value if name is None else value.index_select(axis, torch.as_tensor(perms[name]))
        weights[key] = value
    return weights


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_what_was_written_is_read_again(make, suffix, tmp_path):
    a, b = seeded(make, 0), seeded(make, 1)
    alignment = featviz.align(a, b, EXAMPLE, "random", seed=7)
    path = featviz.write_permutations(alignment, b, tmp_path / f"ab.{suffix}")
    again = read(path, (a, b))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert set(again.permutations) == set(alignment.permutations)
    assert all(np.array_equal(again.permutations[name], perm) for name, perm in alignment.permutations.items())
    assert (again.method, again.seed) == ("random", 7)
    for layer in alignment.indexer.layers:
        np.testing.assert_equal(again.indexer.table(layer), alignment.indexer.table(layer))
    ours, theirs = alignment.permute(b).state_dict(), again.permute(b).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "grouped"])
def test_a_file_is_enough_to_permute_b_without_featviz(name, tmp_path):
    a, b = seeded(NETWORKS[name], 0), seeded(NETWORKS[name], 1)
    alignment = featviz.align(a, b, EXAMPLE, "random")
    content = json.loads(featviz.write_permutations(alignment, b, tmp_path / "ab.json").read_text())
    assert content["convention"] == "B'[i] = B[perm[i]]"
    weights = applied(content["axes_to_perm"], content["permutations"], b)
    wanted = alignment.permute(b).state_dict()
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)


def test_a_grouped_convolution_names_its_input_channels(tmp_path):
    a, b = seeded(Cardinal, 0), seeded(Cardinal, 1)
    path = featviz.write_permutations(featviz.align(a, b, EXAMPLE, "random"), b, tmp_path / "ab.json")
    content = json.loads(path.read_text())
    assert content["axes_to_perm"]["grouped.weight"] == ["grouped", "down", None, None]
    assert len(content["permutations"]["down"]) == 16


def test_a_planted_permutation_in_git_re_basins_form_is_read_back(tmp_path):
    a = seeded(TinyResNet, 0)
    b, _, truth = planted(a, EXAMPLE, 3)
    np.savez(tmp_path / "p.npz", P_bg0=truth["conv1"].astype(np.int32), P_bg1=truth["conv3"])
    alignment = read(tmp_path / "p.npz", (a, b), spec=SPEC)
    assert {name: perm.tolist() for name, perm in alignment.permutations.items()} == {
        name: perm.tolist() for name, perm in truth.items()
    }
    ours, wanted = alignment.permute(b).state_dict(), a.state_dict()
    assert all(torch.equal(ours[key], wanted[key]) for key in wanted)
    assert min(scores.min() for scores in alignment.scores.values()) == pytest.approx(1)
    assert alignment.indexer.match("conv3", 4).b == truth["conv3"][4]


@pytest.mark.parametrize("kind", [list, torch.tensor, np.asarray])
def test_a_dictionary_in_memory_is_read_as_its_file_is(pair, perms, kind):
    alignment = read({name: kind(perm.tolist()) for name, perm in perms.items()}, pair, spec=SPEC)
    assert np.array_equal(alignment.permutations["conv1"], perms["P_bg0"])
    assert np.array_equal(alignment.permutations["conv3"], perms["P_bg1"])


def test_flax_names_turn_the_axes_of_kernels(pair, perms):
    flax = {
        "conv1/kernel": (None, None, None, "P_bg0"),
        "bn1/scale": ("P_bg0",),
        "bn1/mean": ("P_bg0",),
        "conv3/kernel": (None, None, "P_bg0", "P_bg1"),
        "fc/kernel": ("P_bg1", None),
        "fc/bias": (None,),
    }
    alignment = read(perms, pair, spec=flax)
    assert np.array_equal(alignment.permutations["conv3"], perms["P_bg1"])
    turned = {"fc.weight": ("P_bg1", None)}
    with pytest.raises(AlignmentError, match=r"'P_bg1' is for 16 units and axis 0 of fc\.weight has 5"):
        read({"P_bg1": perms["P_bg1"]}, pair, spec=turned)


def test_c2m3s_json_holds_all_pairs_and_the_inverse_is_the_other_pair(pair, perms, tmp_path):
    lists = {name: perm.tolist() for name, perm in perms.items()}
    back = {name: np.argsort(perm).tolist() for name, perm in perms.items()}
    path = tmp_path / "permutations.json"
    path.write_text(
        json.dumps({"a": {"b": lists, "c": None}, "b": {"a": back, "c": None}, "c": {"a": None, "b": None}})
    )
    alignment = read(path, pair, spec=SPEC, fixed="a", permutee="b")
    assert np.array_equal(alignment.permutations["conv1"], perms["P_bg0"])
    other = read(path, pair[::-1], spec=SPEC, fixed="b", permutee="a")
    assert np.array_equal(other.permutations["conv1"], np.argsort(perms["P_bg0"]))
    for wrong in ({}, {"fixed": "a", "permutee": "c"}):
        with pytest.raises(AlignmentError, match=r"choose one of its pairs, \('a', 'b'\), \('b', 'a'\)\.$"):
            read(path, pair, spec=SPEC, **wrong)
    with pytest.raises(AlignmentError, match="leave fixed and permutee out"):
        read(lists, pair, spec=SPEC, fixed="a", permutee="b")


def test_the_inverse_convention_gives_the_inverse(pair, perms):
    inverse = {name: np.argsort(perm) for name, perm in perms.items()}
    one, other = read(perms, pair, spec=SPEC), read(inverse, pair, spec=SPEC, convention=INVERSE)
    assert all(np.array_equal(other.permutations[name], perm) for name, perm in one.permutations.items())


def test_a_file_may_state_the_inverse_convention_itself(pair, perms, tmp_path):
    path = featviz.write_permutations(read(perms, pair, spec=SPEC), pair[1], tmp_path / "ab.json")
    content = json.loads(path.read_text()) | {"convention": INVERSE}
    path.write_text(json.dumps(content))
    assert np.array_equal(read(path, pair).permutations["conv1"], np.argsort(perms["P_bg0"]))


def test_permutations_named_after_parameters_are_of_axis_0_and_other_units_stay(pair):
    perm = [2, 0, 1, 3, 4, 5, 7, 6]
    with pytest.warns(UserWarning, match=r"states nothing for these groups, whose units stay: conv3\.$") as told:
        alignment = featviz.read_permutations({"bn2.bias": perm}, *pair, EXAMPLE)
    assert told[0].filename == __file__
    assert alignment.permutations["conv1"].tolist() == perm
    assert alignment.permutations["conv3"].tolist() == list(range(16))
    assert relative_difference(pair[1], alignment.permute(pair[1]), torch.rand(2, 3, 8, 8)) < 1e-12


def test_a_name_without_a_permutation_stays_and_is_told(pair, perms):
    with pytest.warns(UserWarning, match="conv3"):
        alignment = featviz.read_permutations({**perms, "P_bg1": None}, *pair, EXAMPLE, spec=SPEC)
    assert np.array_equal(alignment.permutations["conv1"], perms["P_bg0"])
    assert alignment.permutations["conv3"].tolist() == list(range(16))


def test_what_was_read_merges_and_renders(pair, perms):
    alignment = read(perms, pair, spec=SPEC)
    merged = featviz.merge(*pair, alignment)
    config = featviz.RenderConfig(size=8, steps=1)
    triplets = featviz.render_unit_triplet(*pair, "conv3", units=[3], merged=merged, alignment=alignment, config=config)
    assert triplets.matches[0].b == perms["P_bg1"][3]


SWAP = [1, 0, *range(2, 8)]


@pytest.mark.parametrize(
    ("perms", "spec", "words"),
    [
        ({"P": SWAP}, None, r"'P' is no parameter of the network: give spec"),
        ({"conv1.weigth": SWAP}, None, r"give spec.*did you mean conv1\.weight"),
        ({"P": SWAP}, {"conv1.weigth": ("P",)}, r"no parameter 'conv1\.weigth': did you mean conv1\.weight"),
        ({"P0": SWAP}, {"conv1.weight": ("P_0",)}, r"'P0' is on no axis of axes_to_perm: did you mean P_0\?"),
        ({"P": SWAP}, {"conv1.weight": "P"}, r"has 'P' for conv1\.weight: give a name or None for each axis"),
        ({"P": SWAP}, {"bn1.bias": (None, "P")}, r"bn1\.bias has no axis 1 for 'P'"),
        ({"P": SWAP}, {"conv3.bias": ("P",)}, r"'P' is for 8 units and axis 0 of conv3\.bias has 16"),
        (
            {"P": [0, 0, *range(2, 8)]},
            SPEC_P := {"bn1.bias": ("P",)},
            r"'P' is no permutation: give every number from 0 to 7",
        ),
        ({"P": np.eye(8)}, SPEC_P, r"no vector of whole numbers \(shape \(8, 8\), float64\).*argmax"),
        ({"P": [0.0] * 8}, SPEC_P, r"no vector of whole numbers"),
        ({"P": [[0], [1, 2]]}, SPEC_P, r"no vector of whole numbers"),
        ({"P": [1, 0, 2, 3, 4]}, {"fc.bias": ("P",)}, r"axis 0 of fc\.bias.*may not move, 0 the first.*leave them"),
        (
            {"P": [1, 0, 2]},
            {"conv1.weight": (None, None, "P")},
            r"may not move, 0 the first \(the position in a kernel\)",
        ),
        (
            {"P": SWAP, "Q": SWAP[::-1]},
            {"bn1.bias": ("P",), "conv3.weight": (None, "Q")},
            r"axis 1 of conv3\.weight, that 'Q' permutes, carries the units of axis 0 of bn1\.bias \('P'\) but moves otherwise",
        ),
        (
            {"P": SWAP},
            {"bn1.bias": ("P",), "conv2.weight": ("P", None)},
            r"axis 1 of conv2\.weight, that nothing permutes, carries the units of axis 0 of bn1\.bias \('P'\)",
        ),
    ],
)
def test_a_dictionary_that_is_wrong_is_one_sentence(pair, perms, spec, words):
    with pytest.raises(AlignmentError, match=words) as error:
        read(perms, pair, spec=spec)
    assert str(error.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("make", "perms", "spec", "words"),
    [
        (Cardinal, {"down.bias": [0, 4, 2, 3, 1, *range(5, 16)]}, None, r"takes apart its 4 blocks of 4 units"),
        (Cardinal, {"down.bias": [*range(4, 8), *range(4), *range(8, 16)]}, None, r"blocks of down and of grouped must be"),
        (TinyCNN, {"P": [4, 1, 2, 3, 0, *range(5, 24)]}, {"fc.weight": (None, "P")}, r"tears the units of group conv2"),
        (TinyCNN, {"P": [8, 1, 2, 3, 9, 5, 6, 7, 0, 4, *range(10, 24)]}, {"fc.weight": (None, "P")}, r"tears the units of"),
        (
            Joined,
            {"P": [11, *range(1, 11), 0]},
            {"head.weight": (None, "P")},
            r"gets unit 11 at place 0, which are not interchangeable: permute the 4 units of group left among themselves",
        ),
        (Joined, {"P": [*range(4), 5, 4, *range(6, 12)]}, {"head.weight": (None, "P")}, r"units that may not move, 4 the"),
        (
            Tied,
            {"one.weight": [1, 0, 2, 3, 4, 5], "two.weight": [0, 1, 3, 2, 4, 5]},
            None,
            r"axis 0 of two\.weight, that 'two\.weight' permutes, carries .* but moves otherwise",
        ),
    ],
)  # fmt: skip
def test_what_the_symmetry_does_not_allow_is_refused(make, perms, spec, words):
    with pytest.raises(AlignmentError, match=words):
        featviz.read_permutations(perms, seeded(make, 0), seeded(make, 1), EXAMPLE, spec=spec)


def test_columns_of_a_grouped_convolution_may_be_left_unsaid(pair):
    a, b = seeded(Cardinal, 0), seeded(Cardinal, 1)
    blocks = np.array([*range(4, 8), *range(4), *range(8, 16)])
    spec = {"down.bias": ("P",), "grouped.weight": ("P", None, None, None)}
    with pytest.warns(UserWarning, match="stem"):
        alignment = featviz.read_permutations({"P": blocks}, a, b, EXAMPLE, spec=spec)
    assert alignment.permutations["down.blocks"].tolist() == [1, 0, 2, 3]
    within = {"P": [1, 0, *range(2, 16)]}
    with pytest.raises(AlignmentError, match=r"axis 1 of grouped\.weight, that nothing permutes"):
        featviz.read_permutations(within, a, b, EXAMPLE, spec=spec)


class Lopsided(TinyResNet):
    """Of the shapes of TinyResNet, with channels that are not alike."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x))) * torch.arange(1, 9)[:, None, None]
        return self.fc(self.conv3(x).mean((2, 3)))


def test_a_permutation_that_changes_b_is_refused(pair, perms):
    with pytest.raises(AlignmentError, match="computes another function"):
        read(perms, (pair[0], seeded(Lopsided)), spec=SPEC)


def test_a_file_belongs_to_its_networks_and_states_what_it_is(pair, perms, tmp_path):
    a, b = pair
    alignment = read(perms, pair, spec=SPEC)
    path = featviz.write_permutations(alignment, b, tmp_path / "ab.json")
    content = json.loads(path.read_text())
    with pytest.raises(AlignmentError, match="another model A"):
        read(path, (b, b))
    with pytest.raises(AlignmentError, match="another model B"):
        read(path, (a, a))
    with pytest.raises(AlignmentError, match="another model B"):
        featviz.write_permutations(alignment, a, tmp_path / "x.json")
    with pytest.raises(OutputError, match=r"x\.csv is neither \.json nor \.safetensors"):
        featviz.write_permutations(alignment, b, tmp_path / "x.csv")
    for change, options, words in (
        ({"version": 2}, {}, "version 2, and this featviz reads 1"),
        ({"convention": "B[perm]"}, {}, r"no convention \"B\[perm\]\": write \"B'\[i\] = B\[perm\[i\]\]\" or"),
        ({"seed": None}, {}, "incomplete"),
        ({}, {"spec": SPEC}, "leave spec and convention out"),
        ({}, {"convention": INVERSE}, "leave spec and convention out"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(AlignmentError, match=words):
            read(path, pair, **options)
    with pytest.raises(AlignmentError, match="no convention"):
        read(perms, pair, spec=SPEC, convention="rows")
    with pytest.raises(AlignmentError, match="spec is a list: give the dictionary in it"):
        read(perms, pair, spec=["P_bg0"])


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


@pytest.mark.parametrize("name", ["p.pkl", "p.pickle", "p.pt", "p.pth", "p.npz", "p.json", "p.safetensors", "p.dat"])
def test_a_pickle_is_refused_and_never_opened(name, pair, tmp_path):
    path, sprung = tmp_path / name, tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"P_bg0": Trap(sprung)}))
    words = r"pickle, which runs code.*numpy\.savez" if name[2:] in ("pkl", "pickle", "pt", "pth") else name
    with pytest.raises(AlignmentError, match=words):
        read(path, pair, spec=SPEC)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists()


def test_objects_in_an_archive_of_arrays_are_never_unpickled(pair, tmp_path):
    path, sprung = tmp_path / "p.npz", tmp_path / "sprung"
    np.savez(path, P_bg0=np.array([Trap(sprung)] * 8, dtype=object))
    with pytest.raises(AlignmentError, match=r"holds more than plain arrays.*numpy\.savez"):
        read(path, pair, spec=SPEC)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.json", None, "there is no file"),
        ("p.json", "{", "damaged"),
        ("p.json", "[1, 0]", "holds a list: give a dictionary"),
        ("p.npz", "hello", "damaged"),
        ("p.safetensors", "hello", "damaged"),
        ("p.csv", "0,1", r"of no format that featviz reads: give a \.json"),
    ],
)
def test_a_file_that_is_none_of_these_is_one_sentence(pair, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AlignmentError, match=words):
        read(tmp_path / name, pair, spec=SPEC)
