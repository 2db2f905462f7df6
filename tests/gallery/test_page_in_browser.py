"""The page in a browser: opened from disk by Debian's Chromium; what its views show, and what they find."""

import re

import numpy as np
import pytest
from browsing import count, heading, names_of, shown_units
from made_up_pages import SUBJECTS, block, ordinary_page, page, record

from featviz.gallery.page.contents import PageBlock, PageLayer
from featviz.gallery.page.write import write_page

HOSTILE = "</script><script>alert(1)</script>\"'../../x <img src=x onerror=alert(2)>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_every_view_opens_from_disk_and_fits_its_width(open_page, ordinary, width, scheme):
    opened = open_page(ordinary, width=width, scheme=scheme)
    back = opened.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", back))) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    for address, ready in (
        ("#", ".scatter canvas"),
        ("#layer=layer1", ".panel img"),
        ("#all=yes", ".panel img"),
        ("#layer=layer1&unit=layer1%3A3", ".large img"),
    ):
        opened.goto(f"{ordinary.as_uri()}{address}")
        opened.wait_for_selector(ready)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_the_overview_counts_the_fates_of_every_layer(open_page, ordinary):
    opened = open_page(ordinary)
    assert opened.locator(".legend").first.inner_text().split("\n")[0] == "kept 5"
    bars = opened.locator(".layers tbody tr")
    assert bars.nth(0).locator(".bar").inner_text().split() == ["3", "3", "3", "3", "3", "3", "2"]
    assert "10 of 16" in bars.nth(1).inner_text()
    opened.click("text=The counts as a table")
    assert opened.locator("details table tbody tr").nth(1).inner_text().split() == ["layer2.bn", *"2221111", "6"]
    bars.nth(0).locator('.bar a[title="3 lost"]').click()
    count(opened, "3 of 20 units")
    assert shown_units(opened) == names_of(4, 11, 18)


def test_a_dot_of_the_scatter_plot_is_a_link_to_its_unit(open_page, ordinary):
    opened = open_page(ordinary)
    assert "agreement c" in opened.locator(".scatter > svg").text_content()
    opened.focus(".dot")
    opened.keyboard.press("Home")
    assert opened.locator(".tip").inner_text() == "layer1:0: kept, c 0.00, f 0.00"
    opened.keyboard.press("ArrowRight")
    label = opened.locator(".tip").inner_text().split(": ")[0]
    opened.keyboard.press("Enter")
    heading(opened, label)
    opened.go_back()
    heading(opened, "A pair")
    opened.locator(".scatter").scroll_into_view_if_needed()
    box = opened.locator(".scatter").bounding_box()
    opened.mouse.move(box["x"] + box["width"] - 100, box["y"] + 100)
    assert not opened.evaluate("document.querySelector('.dot').classList.contains('shown')"), "no dot is near"
    opened.mouse.move(
        *opened.evaluate("""() => {
        const bounds = document.querySelector('.dot').getBoundingClientRect();
        return [bounds.x + 5, bounds.y + 5];
    }""")
    )
    opened.wait_for_selector(".dot.shown")
    opened.mouse.down()
    opened.mouse.up()
    opened.wait_for_selector(".large img")


def test_the_plot_is_of_one_layer_where_one_is_chosen(open_page, ordinary):
    opened = open_page(ordinary)
    opened.select_option("#scatter-layer", label="layer2.bn")
    opened.focus(".dot")
    opened.keyboard.press("End")
    opened.wait_for_function("() => document.querySelector('.tip').textContent.startsWith('layer2.bn:')")


def test_panels_are_sorted_by_every_figure_and_what_is_not_known_comes_last(open_page, tmp_path):
    records = [record(0), record(1), record(2), record(3, score=None, fate=None), record(5)]
    index = write_page(page(PageLayer("layer1", 5, [block(records)])), tmp_path)
    opened = open_page(index, "#layer=layer1")
    opened.wait_for_selector(".panel")
    assert shown_units(opened) == names_of(0, 1, 2, 3, 5)
    for key, order in {
        "score": (5, 2, 1, 0, 3),
        "margin": (0, 1, 2, 3, 5),
        "agreement": (1, 5, 2, 0, 3),
        "fidelity": (2, 5, 1, 0, 3),
        "activation.2": (5, 3, 2, 1, 0),
        "fate": (0, 1, 2, 5, 3),
        "dead": (5, 0, 1, 2, 3),
    }.items():
        opened.select_option("#sort", key)
        opened.wait_for_function("key => location.hash.endsWith(key)", arg=key)
        opened.wait_for_function("key => document.getElementById('sort').value === key", arg=key)
        assert shown_units(opened) == names_of(*order), key
    opened.select_option("#sort", "score")
    opened.click("#direction")
    opened.wait_for_selector("#direction[aria-pressed=false]")
    assert shown_units(opened) == names_of(0, 1, 2, 5, 3)


def test_panels_are_filtered_by_fate_figures_and_dead_units(open_page, ordinary):
    opened = open_page(ordinary, "#layer=layer1")
    opened.click("#filters summary")
    opened.check("label:has-text('kept (3)') input")
    count(opened, "3 of 20 units")
    assert opened.locator("#status").inner_text() == "3 of 20 units"
    opened.check("label:has-text('lost (3)') input")
    count(opened, "6 of 20 units")
    opened.fill("#min-score", "0.1")
    opened.keyboard.press("Tab")
    count(opened, "3 of 20 units")
    assert shown_units(opened) == names_of(11, 14, 18)
    opened.reload()
    count(opened, "3 of 20 units")
    opened.click("#filters summary")
    opened.click("#clear")
    count(opened, "20 units")
    opened.select_option("#dead", "yes")
    count(opened, "3 of 20 units")
    assert shown_units(opened) == names_of(5, 12, 19)
    opened.fill("[id='max-activation.0']", "-1")
    opened.keyboard.press("Enter")
    count(opened, "0 of 20 units")
    opened.click("a:has-text('Show all')")
    count(opened, "20 units")


def test_units_are_found_by_layer_by_index_of_a_network_and_by_part_of_a_name(open_page, ordinary):
    opened = open_page(ordinary)

    def find(text: str) -> None:
        opened.fill("#search", text)
        opened.keyboard.press("Enter")

    for text in ("layer2.bn:7", "layer2.bn B:107", "layer2.bn A:7", " layer2.bn merged:7 "):
        find(text)
        heading(opened, "layer2.bn:7")
        opened.goto(f"{ordinary.as_uri()}#")
    find("B:119")  # only layer1 has so many
    heading(opened, "layer1:19")
    find("B:103")
    count(opened, "2 units")
    assert opened.locator(".panel .label").all_inner_texts() == ["layer1:3", "layer2.bn:3"]
    find("layer2")
    count(opened, "10 units")
    find("layer1")
    heading(opened, "layer1")
    find("17")
    heading(opened, "layer1:17")
    find("nothing:99")
    opened.wait_for_selector("text=Nothing was found")


def test_a_unit_shows_all_that_is_known_of_it(open_page, ordinary):
    opened = open_page(ordinary, "#layer=layer1")
    opened.click("text=A:3 = B:103")
    heading(opened, "layer1:3")
    opened.wait_for_selector(".large img")
    names = opened.eval_on_selector_all(".large img", "images => images.map(image => image.alt)")
    assert names == [f"layer1:3 in {name}" for name in SUBJECTS]
    assert opened.locator(".natural img").count() == 6
    text = opened.locator("#unit").inner_text()
    for part in (
        "A:3 = B:103",
        "score 0.0300",
        "B's",
        "image of merged",
        "seen by B'",
        "confidence",
        "0.100, not measured",
    ):
        assert part in text, part
    assert "exemplars" not in text
    assert "[object" not in text
    assert opened.locator(".trace polyline").count() == 3


def test_hostile_names_are_shown_as_text(open_page, tmp_path):
    subjects = (HOSTILE, "../../x", "merged")
    records = [record(0, subjects, fate={"verdict": HOSTILE, "likeliest": HOSTILE, "agreement": 0.5, "fidelity": 0.5})]
    layers = [
        PageLayer(name, 2, [block(records, subjects, k=1)])
        for name in (HOSTILE, "../../etc/passwd", "a:b c", "__proto__")
    ]
    index = write_page(page(*layers, title=HOSTILE, subjects=subjects, facts={HOSTILE: HOSTILE}), tmp_path / "page")
    opened = open_page(index)
    heading(opened, HOSTILE)
    assert opened.locator(".layers th a").all_inner_texts() == [HOSTILE, "../../etc/passwd", "a:b c", "__proto__"]
    for number, name in enumerate((HOSTILE, "../../etc/passwd", "a:b c", "__proto__")):
        opened.locator(".layers th a").nth(number).click()
        heading(opened, name)
        opened.wait_for_selector(".panel img")
        opened.locator(".panel a").click()
        heading(opened, f"{name}:0")
        opened.wait_for_selector(".large img")
        if number < 2:
            with opened.expect_download() as download:
                opened.click("#unit-svg")
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.svg", download.value.suggested_filename)
        opened.click("#home")
    opened.fill("#search", f"{HOSTILE}:0")
    opened.keyboard.press("Enter")
    heading(opened, f"{HOSTILE}:0")
    assert opened.locator("img:not([src^='data:'])").count() == 0
    assert opened.locator("script:not([src])").count() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"page"}


def test_what_is_missing_is_said_in_words(open_page, tmp_path):
    bare = [
        {"unit": 0},
        {
            "unit": 1,
            "fate": {"unit": 1, "exemplars of": ["A"]},
            "own_units": {"A": 1, "B'": None, "merged": 1},
            "activation": {"A": float("nan")},
        },
    ]
    made = block(bare)
    nothing = PageBlock(bare, made.images, np.full_like(made.trace, np.nan), made.steps)
    index = write_page(page(PageLayer("bare", 2, [nothing]), PageLayer("later", 8, [])), tmp_path)
    opened = open_page(index)
    opened.wait_for_selector("text=No fates were measured")
    assert "0 of 8" in opened.locator(".layers").inner_text()
    opened.goto(f"{index.as_uri()}#layer=bare")
    count(opened, "2 units")
    text = opened.locator(".panels").inner_text()
    for part in ("fate not measured", "no such unit", "no activation"):
        assert part in text, part
    opened.goto(f"{index.as_uri()}#unit=bare:1")
    opened.wait_for_selector("text=Its fate was not measured")
    text = opened.locator("#unit").inner_text()
    for part in (
        "No trace is known",
        "not known",
        "No natural images are known",
        "no such unit",
        "It was not measured how",
    ):
        assert part in text, part
    assert not re.search(r"\b(null|undefined|NaN)\b", text)
    opened.goto(f"{index.as_uri()}#layer=later")
    opened.wait_for_selector("text=No unit of this layer is there yet")
    opened.goto(f"{index.as_uri()}#layer=gone")
    opened.wait_for_selector("text=This page has no layer")
    empty = open_page(write_page(page(), tmp_path / "empty"))
    empty.wait_for_selector("text=No unit is there yet")


def test_a_file_that_is_gone_is_said_in_words(browser, tmp_path):
    index = write_page(ordinary_page(), tmp_path)
    (tmp_path / "data" / "1" / "images" / "0" / "0.js").unlink()
    (tmp_path / "data" / "1" / "units" / "1.js").write_text("")
    opened = browser.new_page()
    opened.goto(f"{index.as_uri()}#layer=layer1")
    opened.wait_for_selector("text=cannot be read")
    opened.goto(f"{index.as_uri()}#layer=layer2.bn")
    opened.wait_for_selector("text=units/1.js of this page cannot be read")
    opened.close()


def test_only_panels_near_the_window_are_in_the_document_and_all_can_be_reached(open_page, tmp_path):
    records = [record(unit) for unit in range(2000)]
    index = write_page(page(PageLayer("wide", 2000, [block(records, size=2)])), tmp_path)
    opened = open_page(index, "#layer=wide")
    opened.wait_for_selector(".panel img")
    for part in (0.0, 0.37, 0.81, 1.0):
        opened.evaluate("part => window.scrollTo(0, part * document.documentElement.scrollHeight)", part)
        opened.wait_for_function("""() => {
            const seen = [...document.querySelectorAll('.panel')].filter((panel) => {
              const bounds = panel.getBoundingClientRect();
              return bounds.bottom > 60 && bounds.top < innerHeight;
            });
            return seen.length >= 8 && seen.every((panel) => panel.querySelectorAll('img').length === 3);
        }""")
        assert opened.locator(".panel").count() < 80
    assert "A:1999 = B:2099" in shown_units(opened)
    last = opened.locator(".panel").last
    assert last.get_attribute("aria-setsize") == "2000"
    opened.goto(f"{index.as_uri()}#layer=wide&unit=wide:1234")
    heading(opened, "wide:1234")
    opened.keyboard.press("Escape")
    opened.wait_for_function("() => document.activeElement.textContent.includes('A:1234 ')")


def test_small_images_keep_their_pixels_only_where_they_are_much_enlarged(open_page, tmp_path):
    layers = [PageLayer(f"size{size}", 1, [block([record(0)], size=size)]) for size in (16, 64)]
    index = write_page(page(*layers), tmp_path)
    for size, expected in ((16, "pixelated"), (64, "auto")):
        opened = open_page(index, f"#layer=size{size}")
        opened.wait_for_function("() => document.querySelector('.panel img')?.complete")
        opened.wait_for_timeout(50)
        assert opened.evaluate("getComputedStyle(document.querySelector('.panel img')).imageRendering") == expected
