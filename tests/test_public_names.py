"""The public names of featviz: one list, loaded when used."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import featviz


@pytest.mark.parametrize("name", featviz.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(featviz, name).__doc__
    assert name in dir(featviz)


def test_the_objectives_of_the_readme_are_public():
    wanted = {"Objective", "channel", "neuron", "direction", "logit", "deepdream", "diversity", "from_callable"}
    assert wanted <= set(featviz.__all__)


def test_the_version_is_that_of_the_installed_package_and_types_are_marked():
    assert featviz.__version__ == version("featviz")
    assert (Path(featviz.__file__).parent / "py.typed").exists()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        featviz.rendr  # noqa: B018  # pyright: ignore


def test_importing_featviz_imports_no_torch():
    script = "import sys, featviz; dir(featviz); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
