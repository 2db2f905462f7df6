"""A folder in which commands are tried."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_arguments import NET, PAIR, SIZE
from PIL import Image
from safetensors.torch import save_file

from featviz.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a tiny architecture, two checkpoints, their alignment and merge, and images of two classes."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "tinynet.py").write_text(NET)
    random = np.random.default_rng(0)
    for number in range(24):
        path = folder / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    space: dict = {}
    exec(NET, space)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            save_file(space["make"]().state_dict(), f"{name}.safetensors")
        assert main(["align", *PAIR, *SIZE, "--out", "ab.safetensors"]) == 0
        assert (
            main(["merge", *PAIR, *SIZE, "--alignment", "ab.safetensors", "--data", "data", "--out", "m.safetensors"])
            == 0
        )
    return folder


@pytest.fixture
def here(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made
