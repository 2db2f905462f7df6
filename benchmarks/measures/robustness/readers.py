"""The readers that are fuzzed. A further one is a line in `READERS`: its name, valid examples, and the function that reads."""

import argparse
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import featviz
from featviz.atlases.chunk import Chunk, read_chunk
from featviz.atlases.items import webp_arrays
from featviz.atlases.page import block_of, page_of
from featviz.atlases.plan import Identity, PlannedLayer, read_planned_layer
from featviz.atlases.store import AtlasStore
from featviz.config import AlignConfig, FateConfig, MergeConfig, RenderConfig
from featviz.data import ImageFolderBatches, read_image
from featviz.evidence.fates.stored_fates import FORMAT
from featviz.matching.exchange import permutation_files
from featviz.units import parse_channels, parse_units
from featviz.weights.checkpoints import load_into, load_weights
from featviz.weights.checks import digest
from measures.robustness.cases import Reader
from measures.robustness.mutations import Example, File, folder

INPUT = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def network(seed: int, classes: int = 2) -> nn.Module:
    """A convolution, a norm and a linear layer."""
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )
    return nn.Sequential(*layers).eval()


@cache
def pair() -> tuple[nn.Module, nn.Module]:
    return network(0), network(1)


def bytes_of(write: Callable[[Path], object], suffix: str) -> bytes:
    """What a function writes into a file."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, f"x{suffix}")
        write(path)
        return path.read_bytes()


def saved(value: object, **options: Any) -> bytes:
    """As of `torch.save`."""
    made = io.BytesIO()
    torch.save(value, made, **options)
    return made.getvalue()


def numbered(content: bytes) -> bytes:
    """A file of a torch before 1.6 whose storages are numbered, and not called by their addresses, which differ every time."""
    for number, address in enumerate(dict.fromkeys(re.findall(rb"X[\x0d-\x0f]\0\0\0(\d{13,15})q", content))):
        content = content.replace(address, b"%0*d" % (len(address), number))
    return content


@cache
def alignment_examples() -> Sequence[Example]:
    a, b = pair()
    data = [torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))]
    made = [
        featviz.align(a, b, INPUT),
        featviz.align(a, b, INPUT, "zipit", data=data),
        featviz.align(a, network(2, classes=3), INPUT, "weights"),
    ]
    return [File("ab.safetensors", bytes_of(one.save, ".safetensors")) for one in made]


def use_alignment(path: Path) -> None:
    alignment = featviz.load_alignment(path)
    for layer, width in alignment.indexer.layers.items():
        for unit in range(width):
            alignment.indexer.members(layer, unit)
            alignment.indexer.mix(layer, unit)
    if isinstance(alignment, featviz.PermutationAlignment):
        for layer in alignment.indexer.layers:
            alignment.indexer.table(layer)
        if alignment.digest_b == digest(pair()[1]):
            alignment.permute(pair()[1])
    alignment.as_combination()


@cache
def checkpoint_examples() -> Sequence[Example]:
    weights = network(1).state_dict()
    trained = {
        "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5),
        "state_dict": {f"module.{k}": v for k, v in weights.items()}
    }  # fmt: skip
    return [
        File("w.safetensors", bytes_of(lambda path: featviz.save_weights(network(1), path), ".safetensors")),
        File("w.pt", saved(weights)),
        File("w.pth", numbered(saved(weights, _use_new_zipfile_serialization=False))),
        File("w.pt", saved(trained)),
    ]


@cache
def fitting_network() -> nn.Module:
    return network(3)


@cache
def permutation_examples() -> Sequence[Example]:
    a, b = pair()
    alignment = featviz.align(a, b, INPUT)
    vectors = {"0.weight": np.array([2, 0, 1, 3]), "1.weight": np.array([2, 0, 1, 3])}
    made = io.BytesIO()
    np.savez(made, **vectors)
    packed = io.BytesIO()
    np.savez_compressed(packed, **vectors)
    plain = json.dumps({key: vector.tolist() for key, vector in vectors.items()})
    return [
        File("p.json", bytes_of(lambda path: featviz.write_permutations(alignment, b, path), ".json")),
        File("p.safetensors", bytes_of(lambda path: featviz.write_permutations(alignment, b, path), ".safetensors")),
        File("p.npz", made.getvalue()),
        File("p.npz", packed.getvalue()),
        File("p.json", plain.encode()),
    ]


def use_permutations(source: Path | Mapping[str, Any], **more: Any) -> None:
    a, b = pair()
    permutation_files.permutation_groups = (
        traced_once  # of equal networks: a trace takes a hundred times as long as a file
    )
    featviz.read_permutations(source, a, b, INPUT, **more)


@cache
def groups_of_pair() -> featviz.PermutationGroups:
    return featviz.permutation_groups(pair()[0], INPUT)


def traced_once(model: nn.Module, example_input: object) -> featviz.PermutationGroups:
    return groups_of_pair()


def given_permutations() -> Sequence[Example]:
    vector = [2, 0, 1, 3]
    spec = {
        "0.weight": ["P", None, None, None],
        "1.weight": ["P"],
        "1.bias": ["P"],
        "0.bias": ["P"],
        "5.weight": [None, "P"],
    }
    whole = {"source": {"0.weight": vector}, "spec": None, "convention": None, "fixed": None, "permutee": None}
    return [
        whole,
        whole | {"source": {"P": vector}, "spec": spec},
        whole | {"source": {"a": {"b": {"P": vector}, "c": {"P": None}}}, "spec": spec, "fixed": "a", "permutee": "b"},
    ]


@cache
def fates_examples() -> Sequence[Example]:
    units = [
        {
            "layer": layer, "unit": unit, "partner": unit, "score": 0.5, "verdict": ("kept", "undecided")[unit],
            "likeliest": "kept",
            "confidence": 0.9, "agreement": 0.8, "fidelity": None, "correlation A": 0.7, "agreement of halves": [0.8, 0.7],
        }
        for layer in ("layer1", "layer2")
        for unit in range(2)
    ]  # fmt: skip
    long = {
        "featviz": "0.2",
        "parents": ["A", "B"],
        "images": 10,
        "resamples": 200,
        "level": 0.95,
        "seed": 0,
        "units": units,
    }
    columns = {key: [row[key] for row in units[:2]] for key in units[0] if key not in ("layer", "unit")}
    columns["exemplars"] = [{"A": [1, 2], "B": [3]}, {"A": [], "B": []}]
    packed = {
        "format": FORMAT,
        "parents": ["A", "B"],
        "images": 10,
        "matching": "weights",
        "layers": {"layer1": columns},
    }
    return [File("fates.json", json.dumps(one).encode()) for one in (long, packed)]


def use_fates(path: Path) -> None:
    fates = featviz.read_fates(path)
    for layer in fates:
        for unit in range(len(layer)):
            layer.row(unit)
            fates.caption(layer.layer, unit)


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small image of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 4), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(made, kind, **options)
    return made.getvalue()


@cache
def image_examples() -> Sequence[Example]:
    return [
        File("x.png", picture("PNG")),
        File("x.png", picture("PNG", "P")),
        File("x.png", picture("PNG", "LA")),
        File("x.jpg", picture("JPEG")),
        File("x.jpg", picture("JPEG", "CMYK", progressive=True)),
        File("x.bmp", picture("BMP")),
        File("x.ppm", picture("PPM")),
        File("x.tif", picture("TIFF", compression="tiff_lzw")),
        File("x.tif", picture("TIFF", "RGBA")),
        File("x.webp", picture("WEBP")),
        File("x.png", picture("GIF")),
    ]


def folder_examples() -> Sequence[Example]:
    png, jpeg = picture("PNG"), picture("JPEG")
    return [
        folder({"a.png": png, "b.jpg": jpeg}),
        folder({"cat/a.png": png, "cat/b.jpg": jpeg, "dog/c.png": png}),
    ]


def use_folder(path: Path) -> None:
    for _ in ImageFolderBatches(path, 4, batch=2):
        pass


def arguments_of(config: type) -> Callable[[], Sequence[Example]]:
    """A configuration's defaults as keyword arguments, once with numbers where there is None."""
    values = {one.name: getattr(config(), one.name) for one in fields(config)}
    given = {name: (1 if value is None else value) for name, value in values.items()}
    if config is RenderConfig:
        given |= {
            "mean": (0.5, 0.5, 0.5),
            "std": [0.2, 0.2, 0.2],
            "profile": [1.0, 0.5],
            "color": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        }
    return lambda: [values, given]


@cache
def atlas_file_examples() -> Sequence[Example]:
    """Items of an atlas, raw and as WebP, and evidence."""
    record = {
        "unit": 0,
        "b": 1,
        "score": 0.5,
        "margin": None,
        "own_units": {"A": 0},
        "activation": {"A": 1.0},
        "dead": [],
        "restart": 0,
    }
    pictures = np.random.default_rng(0).integers(0, 255, (1, 2, 8, 8, 3), dtype=np.uint8)
    trace, steps = np.zeros((1, 2, 3), np.float32), np.full((1, 2), 3, np.int32)
    records = [record, record | {"unit": 1}]
    kinds = ({"images": pictures}, webp_arrays(pictures))
    return [File("x.safetensors", Chunk(records, kind | {"trace": trace, "steps": steps}).to_bytes()) for kind in kinds]


def use_atlas_file(path: Path) -> None:
    block_of(read_chunk(path), None)


@cache
def atlas_examples() -> Sequence[Example]:
    """A small atlas with pictures and evidence, as a folder."""
    identity = Identity({"A": "0", "B'": "1"}, {"A": {}, "B'": {}}, "0", "weights", {"size": 8}, 2)
    layer = PlannedLayer("conv", (0, 1), 0)
    (item,) = layer.items(identity.digest, 2)
    (example, *_) = atlas_file_examples()
    assert isinstance(example, File)
    fates = [{"unit": unit, "verdict": "kept", "agreement": 0.5, "exemplars of": ["A"]} for unit in (0, 1)]
    exemplars = np.zeros((1, 2, 1, 4, 4, 3), np.uint8)
    place = f"{item.key[:2]}/{item.key}.safetensors"
    return [
        folder({
            "atlas.json": json.dumps(identity.record()).encode(),
            f"layers/{layer.key}.json": json.dumps(layer.record()).encode(),
            f"items/{place}": example.content,
            f"evidence/{place}": Chunk(fates, {"exemplars": exemplars}).to_bytes(),
        })
    ]  # fmt: skip


def identity_examples() -> Sequence[Example]:
    return [json.dumps(Identity({"A": "0"}, {"A": {}}, "0", "weights", {"size": 8}, 2).record())]


def layer_examples() -> Sequence[Example]:
    return [json.dumps(PlannedLayer("layer3.1.conv2", (0, 1, 17), 4).record())]


def use_atlas(path: Path) -> None:
    store = AtlasStore.open(path)
    store.status()
    for layer in page_of(store).layers:
        for _ in layer.blocks:
            pass


READERS = (
    Reader("files of an atlas", atlas_file_examples, use_atlas_file, 15_000),
    Reader("atlases", atlas_examples, use_atlas, 6_000),
    Reader("identity of an atlas", identity_examples, Identity.read, 15_000),
    Reader("layers of an atlas", layer_examples, read_planned_layer, 10_000),
    Reader("alignments", alignment_examples, use_alignment, 12_000),
    Reader("checkpoints", checkpoint_examples, load_weights, 15_000),
    Reader("checkpoints into a network", checkpoint_examples, lambda path: load_into(fitting_network(), path), 10_000),
    Reader("permutation files", permutation_examples, use_permutations, 8_000),
    Reader("permutations in memory", given_permutations, lambda given: use_permutations(**given), 6_000),
    Reader("fates", fates_examples, use_fates, 30_000),
    Reader(
        "images", image_examples, lambda path: read_image(path, (4, 4)), 15_000, memory=2**30
    ),  # 90 million pixels, twice
    Reader("folders of images", folder_examples, use_folder, 5_000, memory=2**30),
    Reader("unit specs", lambda: ["layer3.1.conv2:17", "fc", "a.b:0-3,7,9"], parse_units, 40_000),
    Reader("lists of channels", lambda: ["17", "0-15", "0-3, 7,9"], parse_channels, 30_000),
    Reader("RenderConfig", arguments_of(RenderConfig), lambda given: RenderConfig(**given), 20_000),
    Reader("AlignConfig", arguments_of(AlignConfig), lambda given: AlignConfig(**given), 10_000),
    Reader("MergeConfig", arguments_of(MergeConfig), lambda given: MergeConfig(**given), 5_000),
    Reader("FateConfig", arguments_of(FateConfig), lambda given: FateConfig(**given), 5_000),
)
