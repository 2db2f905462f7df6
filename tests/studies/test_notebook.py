"""The study's notebook runs, and is kept with its outputs."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "studies" / "permute_and_average" / "study.ipynb"


def test_the_notebook_runs_on_a_small_part(cifar, tmp_path, monkeypatch):
    settings = {"CIFAR": cifar, "STUDY_IMAGES": 60, "STUDY_STEPS": 4, "STUDY_OUT": tmp_path}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    kinds = {kind for cell in _code(notebook) for output in cell.outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    assert (tmp_path / "units.png").exists()


def test_the_notebook_is_kept_with_outputs_and_without_paths_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in _code(notebook):
        assert cell.outputs, cell.source[:60]
        assert not any(output.output_type == "error" for output in cell.outputs)
    text = NOTEBOOK.read_text()
    for place in (Path.home(), tempfile.gettempdir(), NOTEBOOK.parents[3]):
        assert f"{place}/" not in text


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
