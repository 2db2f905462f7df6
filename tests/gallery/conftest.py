"""Debian's Chromium, and pages opened in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import absent
from made_up_pages import ordinary_page

from featviz.gallery.page.write import write_page

CHROMIUM = shutil.which("chromium")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, started once by every worker."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("needs playwright: uv pip install playwright")
        return
    if CHROMIUM is None:
        absent("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(ordinary_page(), tmp_path_factory.mktemp("ordinary"))


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens an index.html; afterwards there must be no error, no dialog and no request for anything but files of the page."""
    pages, faults = [], []

    def open_page(index: Path, address: str = "", width: int = 1400, scheme: str = "light") -> Any:
        if not browser.contexts:
            browser.new_context().set_default_timeout(20000)
        opened = browser.contexts[0].new_page()
        pages.append(opened)
        opened.set_viewport_size({"width": width, "height": 900})
        opened.emulate_media(color_scheme=scheme)
        opened.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}") or dialog.dismiss())
        allowed = (index.parent.as_uri(), "data:", "blob:")
        opened.on(
            "request",
            lambda request: None if request.url.startswith(allowed) else faults.append(f"request {request.url}"),
        )
        opened.goto(f"{index.as_uri()}{address}")
        opened.wait_for_selector("html[data-ready]")
        return opened

    yield open_page
    for opened in pages:
        opened.evaluate("localStorage.clear()")
        opened.close()
    assert faults == []
