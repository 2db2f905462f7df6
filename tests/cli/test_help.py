"""Help needs no torch, its examples parse, and its defaults are those of the configuration."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from cli_arguments import PAIR

from featviz.cli import COMMANDS, EXAMPLES, rendering, triplet
from featviz.cli.arguments import Parser
from featviz.config import RenderConfig


def test_help_imports_neither_torch_nor_numpy():
    script = """
import sys
from featviz.__main__ import main
for command in ([], ["demo"], ["align"], ["merge"], ["barrier"], ["triplet"], ["panel"], ["info"]):
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
assert not {"torch", "numpy", "PIL"} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.count("usage: featviz") == 8
    assert shown.count("examples:") == 7


def test_every_example_in_the_help_parses(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    parser = Parser(prog="featviz")
    known = parser.add_subparsers()
    for command in COMMANDS:
        command.add(known)
    for text in (EXAMPLES, *(command.EXAMPLES for command in COMMANDS)):
        lines = re.findall(r"^  featviz (.+)$", re.sub(r"\s*\\\n\s*", " ", text), flags=re.MULTILINE)
        assert len(lines) >= 2
        for line in lines:
            parser.parse_args(re.split(r"\s{3,}", line)[0].split())


def test_defaults_are_those_of_the_configuration(here):
    parser = Parser(prog="featviz")
    triplet.add(parser.add_subparsers())
    args = parser.parse_args(["triplet", *PAIR, "--units", "3"])
    assert rendering.render_config(args) == RenderConfig()


def test_every_field_of_the_render_configuration_with_a_help_text_is_an_option(here):
    parser = Parser(prog="featviz")
    triplet.add(parser.add_subparsers())
    given = {
        "size": "48x64", "steps": "7", "seed": "3", "lr": "0.1", "beta1": "0.9",
        "schedule": "cosine", "parameterization": "pixel", "sd": "0.5", "decay": "2", "jitter": "0.1", "scale": "0.2",
        "rotation": "5", "border": "zeros", "input_size": "32", "restarts": "1", "batch": "9", "memory": "2",
        "precision": "float64", "backend": "eager", "quality": "draft", "ema": "0.8", "weight_decay": "0.2",
        "robustness": "strong", "saturation_decay": "0.5", "final_range": "0.7",
    }  # fmt: skip
    assert {one.name for one in fields(RenderConfig) if "help" in one.metadata} == {*given}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    args = parser.parse_args(["triplet", *PAIR, "--units", "3", *words])
    assert rendering.render_config(args) == RenderConfig(
        size=(48, 64), steps=7, seed=3, lr=0.1, beta1=0.9, schedule="cosine", parameterization="pixel",
        sd=0.5, decay=2.0, jitter=0.1, scale=0.2, rotation=5.0, border="zeros", input_size=32, restarts=1, batch=9,
        memory=2.0, precision="float64", backend="eager", quality="draft", ema=0.8, weight_decay=0.2, robustness="strong",
        saturation_decay=0.5, final_range=0.7,
    )  # fmt: skip
