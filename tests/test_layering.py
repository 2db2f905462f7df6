"""Layers: which package may import which, read from the imports of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "featviz"
FILES = sorted(ROOT.rglob("*.py"))

BASE = {"errors", "config", "units", "files", "reading", "version"}
TORCH = BASE | {"failures", "data", "weights", "isolation", "subjects", "moments"}
LEVEL_4 = TORCH | {"symmetry", "matching", "merging", "rendering"}
ALL = LEVEL_4 | {"networks", "evidence", "panel", "panel_rendering", "triplet", "gallery", "atlases", "zoo"}

# package -> packages that its files may import, besides their own
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "units": {"errors"},
    "files": {"errors"},
    "reading": set(),
    "version": set(),
    "failures": {"errors"},
    "data": BASE,
    "weights": BASE,
    "isolation": {"errors"},
    "subjects": BASE | {"data", "isolation"},
    "moments": BASE,
    "zoo": {"errors", "weights"},
    "networks": BASE | {"weights", "isolation", "subjects", "zoo"},
    "rendering": TORCH,
    "symmetry": TORCH,
    "matching": TORCH | {"symmetry"},
    "merging": TORCH | {"symmetry", "matching"},
    "evidence": LEVEL_4 | {"gallery"},
    "gallery": BASE | {"merging"},
    "panel": LEVEL_4 | {"evidence", "gallery"},
    "panel_rendering": LEVEL_4 | {"evidence", "gallery", "panel"},
    "triplet": LEVEL_4 | {"evidence", "gallery", "panel", "panel_rendering"},
    "atlases": LEVEL_4 | {"evidence", "gallery", "panel", "panel_rendering"},
    "cli": ALL | {"featviz"},
    "__main__": {"cli"},
    "featviz": ALL,
}

# package -> third-party packages that it may import; packages that are not named may import any
THIRD_PARTY = {
    "errors": set(),
    "config": set(),
    "units": set(),
    "files": set(),
    "reading": set(),
    "gallery": {"PIL", "numpy", "matplotlib"},
    "weights": {"torch", "safetensors", "numpy"},
    "failures": {"torch"},
    "isolation": {"torch"},
    "zoo": {"torch"},
    "symmetry": {"torch", "numpy", "scipy"},
    "matching": {"torch", "numpy", "scipy", "safetensors"},
    "merging": {"torch", "numpy", "scipy", "safetensors"},
    "rendering": {"torch", "kornia", "numpy"},
}
STANDARD = set(sys.stdlib_module_names)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """`featviz.symmetry.groups` -> `symmetry`; `featviz` itself -> `featviz`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "featviz"


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Modules that a file imports, dotted; only those of its top level unless `everywhere`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_packages_below_its_own(path):
    package = package_of(module_of(path))
    assert package in MAY_IMPORT, f"{path}: give {package} a line in MAY_IMPORT"
    known = {package_of(name) for name in imports(path) if name.split(".")[0] == "featviz"}
    assert known - {package} <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_package_imports_only_the_third_party_packages_listed_for_it(path):
    package = package_of(module_of(path))
    used = {name.split(".")[0] for name in imports(path)} - STANDARD - {"featviz"}
    assert used <= THIRD_PARTY.get(package, used)


def test_packages_form_no_circle():
    seen: dict[str, bool] = {}

    def visit(package: str, way: tuple[str, ...]) -> None:
        assert package not in way, f"a circle: {' -> '.join((*way, package))}"
        if package not in seen:
            for other in MAY_IMPORT[package]:
                visit(other, (*way, package))
            seen[package] = True

    for package in MAY_IMPORT:
        visit(package, ())


def test_files_form_no_circle():
    graph = {
        module: {name for name in imports(path, everywhere=False) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        for other in graph.get(module, ()):
            visit(other, (*way, module))

    for module in graph:
        visit(module, ())


def test_rendering_and_matching_do_not_import_each_other():
    assert not {"symmetry", "matching", "merging"} & MAY_IMPORT["rendering"]
    assert "rendering" not in MAY_IMPORT["symmetry"] | MAY_IMPORT["matching"] | MAY_IMPORT["merging"]


def test_no_file_needs_an_empty_name():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "helper", "misc", "common")]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_command_line_prints(path):
    if package_of(module_of(path)) in ("cli", "__main__"):
        return
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "breakpoint")]


def test_nothing_is_unpickled():
    for path in FILES:
        text = path.read_text()
        assert "weights_only=False" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "pickle.load", "pickle.loads"):
                assert path.name == "checkpoints.py", path


def test_public_functions_are_not_hidden_by_packages_of_the_same_name():
    script = """
import featviz
featviz.render_unit_triplet
assert all(not isinstance(getattr(featviz, name), type(featviz)) for name in ("align", "merge", "render", "atlas", "page"))
import featviz.symmetry.groups, featviz.merging.merge, featviz.rendering.render, featviz.atlases.run, featviz.atlases.page
assert all(not isinstance(getattr(featviz, name), type(featviz)) for name in ("align", "merge", "render", "atlas", "page"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
