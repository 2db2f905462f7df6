"""The house: which room may know which, read from the imports of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "featviz"
FILES = sorted(ROOT.rglob("*.py"))

WORDS = {"errors", "config", "units", "files"}
ALGEBRA = WORDS | {"batches", "checkpoints", "copies", "tensors"}
PICTURE = WORDS | {"batches", "copies"}
BELOW_THE_DOOR = ALGEBRA | {
    "images",
    "picture",
    "algebra",
    "exchange",
    "merging",
    "zoo",
    "architectures",
    "triplet",
    "bench",
    "plots",
    "gallery",
}

# room -> rooms that its files may import besides those of the room itself
MAY_KNOW = {
    "errors": set(),
    "config": {"errors"},
    "units": {"errors"},
    "files": {"errors"},
    "batches": WORDS,
    "checkpoints": WORDS,
    "copies": {"errors"},
    "tensors": set(),
    "images": WORDS,
    "picture": PICTURE,
    "algebra": ALGEBRA,
    "merging": ALGEBRA | {"algebra"},
    "exchange": ALGEBRA | {"algebra"},
    "zoo": {"errors", "checkpoints"},
    "architectures": {"errors", "zoo"},
    "gallery": WORDS,
    "plots": {"errors", "files", "merging"},
    "bench": PICTURE | {"picture"},
    "triplet": ALGEBRA | {"picture", "algebra", "merging", "gallery"},
    "cli": BELOW_THE_DOOR | {"featviz"},
    "__main__": {"cli"},
    "featviz": BELOW_THE_DOOR,
}

# room -> third-party packages that it may import; rooms that are not named may import any
PACKAGES = {
    "errors": set(),
    "config": set(),
    "units": set(),
    "files": set(),
    "gallery": {"PIL", "numpy"},
    "plots": {"matplotlib", "numpy"},
    "checkpoints": {"torch", "safetensors"},
    "copies": {"torch"},
    "tensors": {"torch"},
    "zoo": {"torch"},
    "algebra": {"torch", "numpy", "scipy", "safetensors"},
    "exchange": {"torch", "numpy", "safetensors"},
    "merging": {"torch", "numpy", "scipy", "safetensors"},
    "picture": {"torch", "kornia", "numpy"},
}
STANDARD = set(sys.stdlib_module_names)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`featviz.algebra.groups` -> `algebra`; the package itself is the room `featviz`."""
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
def test_a_file_imports_only_rooms_that_it_may_know(path):
    room = room_of(module_of(path))
    assert room in MAY_KNOW, f"{path}: give the room {room} a line in MAY_KNOW"
    known = {room_of(name) for name in imports(path) if name.split(".")[0] == "featviz"}
    assert known - {room} <= MAY_KNOW[room]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_room_imports_only_packages_of_its_trade(path):
    room = room_of(module_of(path))
    used = {name.split(".")[0] for name in imports(path)} - STANDARD - {"featviz"}
    assert used <= PACKAGES.get(room, used)


def test_rooms_form_no_circle():
    seen: dict[str, bool] = {}

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, f"a circle: {' -> '.join((*way, room))}"
        if room not in seen:
            for other in MAY_KNOW[room]:
                visit(other, (*way, room))
            seen[room] = True

    for room in MAY_KNOW:
        visit(room, ())


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


def test_pictures_and_permutations_never_meet_on_their_floor():
    assert "algebra" not in MAY_KNOW["picture"]
    assert "picture" not in MAY_KNOW["algebra"] | MAY_KNOW["merging"]


def test_no_file_needs_an_empty_name():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "helper", "misc", "common")]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_door_prints(path):
    if room_of(module_of(path)) in ("cli", "__main__"):
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


def test_public_functions_are_not_hidden_by_the_rooms_of_their_name():
    script = """
import featviz
featviz.render_unit_triplet
assert all(not isinstance(getattr(featviz, name), type(featviz)) for name in ("align", "merge", "render"))
import featviz.algebra.groups, featviz.merging.average, featviz.picture.single
assert all(not isinstance(getattr(featviz, name), type(featviz)) for name in ("align", "merge", "render"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
