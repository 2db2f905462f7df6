"""The page in a browser: used by keyboard alone, by links and by a screen reader, in both themes, and for figures."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from browsing import absent, count, heading


def test_arrow_keys_go_through_the_units_in_the_order_of_the_panels(open_page, ordinary):
    opened = open_page(ordinary, "#layer=layer1&sort=-score&fate=kept")
    opened.click(".panel a >> nth=0")
    heading(opened, "layer1:14")
    for key, label in (("ArrowRight", 7), ("ArrowRight", 0), ("ArrowRight", 0), ("ArrowLeft", 7), ("ArrowLeft", 14)):
        opened.keyboard.press(key)
        heading(opened, f"layer1:{label}")
    for key in ("Escape", "ArrowUp"):
        opened.keyboard.press(key)
        opened.wait_for_selector(".panel a:focus")
        assert opened.evaluate("document.activeElement.querySelector('b').textContent") == "A:14 = B:114"
        assert opened.locator("#count").inner_text() == "3 of 20 units"
        opened.keyboard.press("Enter")
        heading(opened, "layer1:14")
    opened.evaluate("window.scrollTo(0, 1e6)")
    opened.keyboard.press("ArrowDown")
    opened.wait_for_selector(".panel")


def test_a_link_to_a_unit_survives_reload_and_the_back_button(open_page, ordinary):
    opened = open_page(ordinary, "#unit=layer2.bn:7")
    heading(opened, "layer2.bn:7")
    opened.click("#next")
    heading(opened, "layer2.bn:8")
    opened.reload()
    heading(opened, "layer2.bn:8")
    opened.go_back()
    heading(opened, "layer2.bn:7")
    opened.go_forward()
    heading(opened, "layer2.bn:8")
    opened.click("#back")
    count(opened, "10 units")
    opened.goto(f"{ordinary.as_uri()}#unit=layer2.bn:15")
    opened.wait_for_selector("text=The page has no unit")


def test_the_keyboard_alone_reaches_the_grid_and_a_unit(open_page, ordinary):
    opened = open_page(ordinary)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            opened.keyboard.press("Tab")
            if opened.evaluate("selector => document.activeElement.matches(selector)", selector):
                assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
                return
        pytest.fail(f"{selector} was not reached")

    tab_to("#skip")
    opened.keyboard.press("Enter")
    tab_to(".layers th a")
    opened.keyboard.press("Enter")
    count(opened, "20 units")
    tab_to(".panel a")
    columns = opened.evaluate("panels.columns")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("Enter")
    heading(opened, f"layer1:{columns}")
    opened.keyboard.press("Escape")
    opened.wait_for_selector(".panel a:focus")
    opened.keyboard.press("End")
    opened.keyboard.press("Enter")
    heading(opened, "layer1:19")


def test_panels_are_saved_as_figures_whose_captions_are_text(open_page, ordinary, tmp_path):
    opened = open_page(ordinary, "#layer=layer1&fate=kept")
    opened.wait_for_selector(".panel img")
    with opened.expect_download() as download:
        opened.click("#grid-svg")
    assert download.value.suggested_filename == "layer1.svg"
    download.value.save_as(tmp_path / "figure.svg")
    tree = ElementTree.parse(tmp_path / "figure.svg")
    texts = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["layer1", "A:0 = B:100", "kept, c 0.00, f 0.00"]
    images = [node.attrib["href"] for node in tree.iter("{http://www.w3.org/2000/svg}image")]
    assert len(images) == 9
    assert all(url.startswith("data:image/png;base64,") for url in images)
    with opened.expect_download() as download:
        opened.click("#grid-png")
    download.value.save_as(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_panels_are_printed_with_captions_as_text(open_page, ordinary, tmp_path):
    opened = open_page(ordinary, "#all=yes")
    opened.evaluate("() => { window.print = () => { window.asked = true; }; }")
    opened.click("#grid-print")
    opened.wait_for_function("() => window.asked")
    assert opened.locator("#figure text").filter(has_text=re.compile(r"layer2.bn:9 \(A:9")).count() == 1
    assert opened.locator("#figure image").count() == 90
    pages = opened.locator("#figure svg").count()
    printed = opened.pdf()
    assert b"/Type0" in printed, "there is no text in the PDF"
    assert printed.count(b"/Type /Page\n") == pages


def test_a_button_overrides_the_theme_and_is_remembered(open_page, ordinary):
    opened = open_page(ordinary)
    back = "getComputedStyle(document.documentElement).backgroundColor"
    light = opened.evaluate(back)
    opened.click("#theme")
    dark = opened.evaluate(back)
    assert dark != light
    assert opened.get_attribute("#theme", "aria-pressed") == "true"
    opened.reload()
    opened.wait_for_selector("html[data-ready]")
    assert opened.evaluate(back) == dark
    opened.click("#theme")
    assert opened.evaluate(back) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, ordinary, scheme):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        absent("needs axe: uv pip install axe-playwright-python")
        return
    options = {"preload": False, "resultTypes": ["violations"]}  # preload would fetch page.css
    if scheme == "dark":  # only colors differ
        options["runOnly"] = ["color-contrast"]
    opened = open_page(ordinary, scheme=scheme)
    for address, ready in (
        ("#", ".scatter canvas"),
        ("#layer=layer1&fate=kept&fate=dead", ".panel img"),
        ("#search=nothing", ".notice"),
        ("#unit=layer1:3", ".large img"),
    ):
        opened.goto(f"{ordinary.as_uri()}{address}")
        opened.wait_for_selector(f"section:not([hidden]) {ready}")
        for summary in opened.locator("section:not([hidden]) summary").all():
            summary.click()
        found = Axe().run(opened, options=options).response["violations"]
        told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert [one for one in told if one[1] in ("serious", "critical")] == [], address
