"""What tests read from a page that a browser shows."""

import os
from typing import Any

import pytest


def absent(what: str) -> None:
    """Skip a test for what is not installed; on CI it fails."""
    pytest.fail(what) if os.environ.get("CI") == "true" else pytest.skip(what)


def shown_units(opened: Any) -> list[str]:
    """The first line of the panels, in their order: A:3 = B:103."""
    return opened.eval_on_selector_all(
        ".panel a",
        "links => links.sort((a, b) => a.dataset.position - b.dataset.position).map(a => a.querySelector('b').textContent)",
    )


def count(opened: Any, text: str) -> None:
    opened.wait_for_function("text => document.getElementById('count')?.textContent === text", arg=text)


def heading(opened: Any, text: str) -> None:
    opened.wait_for_function(
        "text => [...document.querySelectorAll('section:not([hidden]) > h1')].some(h => h.textContent === text)",
        arg=text,
    )


def names_of(*units: int) -> list[str]:
    return [f"A:{unit} = B:{unit + 100}" for unit in units]
