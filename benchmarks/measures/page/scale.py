"""A page of ten thousand made-up panels in Chromium: time until it can be used, and frames while it is scrolled.

    uv run python benchmarks/page.py scale --keep

The panels are smoothed noise in three subjects, in four layers, with fates, matches and traces. Headless Chromium (Debian's, at
/usr/bin/chromium) opens the page from disk at 1400 x 900 px.

until usable    from the start of the navigation until the view is complete and its handlers are set, of the overview and of the
                grid of all units; the median of `--runs`
first images    until every image in the window of the grid is decoded
frames          times between calls of requestAnimationFrame while the window scrolls through the whole grid at 600 px per
                frame, and through 30,000 px of it at 60 px per frame; of `--runs` times, the one whose longest frame was
                shortest, since other processes on the machine can only add, and the longest frame of all runs beside it
script          the longest time that the page's own script took to put panels into the document in one of these frames
after a sort    from the choice of an order until the panels stand in it
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featviz.gallery.page.contents import Page, PageBlock, PageLayer
from featviz.gallery.page.write import write_page
from measures.process import in_own_process, peak_resident, reset_peak, resident
from measures.report import Record, markdown

NAME = "scale"
SUBJECTS = ("A", "B'", "merged")
LAYERS = 4
BLOCK = 100
STEPS = 64
CHROMIUM = "/usr/bin/chromium"
VERDICTS = ("kept", "blended", "A's", "B's", "lost", "dead", "undecided")
SPEEDS = {"fast": (600, 10**9), "slow": (60, 30_000)}  # px per frame, px at most

SCROLL = """([step, most]) => new Promise((done) => {
  const times = [];
  const end = Math.min(most, document.documentElement.scrollHeight - innerHeight);
  let [last, at] = [null, 0];
  const frame = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    if (at >= end) return done(times);
    at += step;
    window.scrollTo(0, at);
    requestAnimationFrame(frame);
  };
  window.scrollTo(0, 0);
  requestAnimationFrame(frame);
})"""
COUNT_SCRIPT = """() => {
  window.scriptTimes = [];
  const update = Panels.prototype.update;
  Panels.prototype.update = function () {
    const start = performance.now();
    update.call(this);
    window.scriptTimes.push(performance.now() - start);
  };
}"""
USABLE = "() => document.documentElement.dataset.ready === 'yes' ? performance.now() : null"
IMAGES = """() => {
  const inside = [...document.querySelectorAll('.image')].filter((box) => {
    const bounds = box.getBoundingClientRect();
    return bounds.bottom > 0 && bounds.top < innerHeight;
  });
  const there = inside.length && inside.every((box) => box.firstChild?.complete && box.firstChild.naturalWidth);
  return there ? performance.now() : null;
}"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--runs", type=int, default=5, help="of opening the page")
    parser.add_argument("--folder", type=Path, help="keep the page here; default: it is removed afterwards")


def measure(args: argparse.Namespace) -> Record:
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary, "page")
        seconds, peak = in_own_process(_write, args.units, args.size, folder)
        data = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        record = {"units": args.units, "size": args.size, "write_seconds": seconds, "peak_bytes": peak, "bytes": data}
        return record | _in_browser(folder / "index.html", args.runs)


def _write(units: int, size: int, folder: Path) -> tuple[float, int]:
    before = resident()
    reset_peak()
    start = time.perf_counter()
    write_page(made_up_page(units, size), folder)
    return time.perf_counter() - start, peak_resident() - before


def made_up_page(units: int, size: int) -> Page:
    """Layers of equal width whose blocks are made when they are asked for."""
    width = -(-units // LAYERS)
    layers = (PageLayer(f"layer{n + 1}.conv", width, _blocks(n, width, size)) for n in range(LAYERS))
    return Page(f"{units:,} made-up units", SUBJECTS, layers, {"Images": "smoothed noise"})


def _blocks(layer: int, width: int, size: int) -> Iterator[PageBlock]:
    rng = np.random.default_rng(layer)
    partners = rng.permutation(width)
    for start in range(0, width, BLOCK):
        units = range(start, min(start + BLOCK, width))
        shape = (len(SUBJECTS), len(units))
        trace = np.cumsum(rng.random((*shape, STEPS), dtype=np.float32), axis=2) / 8
        steps = np.full(shape, STEPS, np.int32)
        yield PageBlock([_record(rng, unit, partners) for unit in units], _noise(rng, shape, size), trace, steps)


def _noise(rng: np.random.Generator, shape: tuple[int, int], size: int) -> np.ndarray:
    noise = rng.standard_normal((*shape, size, size, 3), dtype=np.float32)
    for axis in (2, 3):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-2, 3))
    noise = noise / noise.std()
    return (128 + 48 * noise).clip(0, 255).astype(np.uint8)


def _record(rng: np.random.Generator, unit: int, partners: np.ndarray) -> dict[str, Any]:
    c, f, score, margin, *activation = rng.random(4 + len(SUBJECTS)).tolist()
    verdict = VERDICTS[int(rng.integers(len(VERDICTS)))]
    fate = {"verdict": verdict, "likeliest": "kept", "confidence": 0.9, "agreement": c, "fidelity": f}
    return {
        "unit": unit,
        "own_units": dict.fromkeys(SUBJECTS, unit),
        "activation": dict(zip(SUBJECTS, activation, strict=True)),
        "dead": ["merged"] if verdict == "dead" else [],
        "restart": 0,
        "cross": rng.random((3, 3)).tolist(),
        "a": unit,
        "b": int(partners[unit]),
        "score": score,
        "margin": margin,
        "fate": fate,
    }


def _in_browser(index: Path, runs: int) -> Record:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        record: Record = {"chromium": browser.version, "usable_ms": {}, "frames": {}}
        for view, address in (("overview", ""), ("all units", "#all=yes")):
            opened = [_open(browser, index, address) for _ in range(runs)]
            record["usable_ms"][view] = statistics.median(usable for usable, _ in opened)
            if address:
                record["first_images_ms"] = statistics.median(images for _, images in opened if images)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{index.absolute().as_uri()}#all=yes")
        page.wait_for_function(IMAGES, polling=20)
        page.evaluate(COUNT_SCRIPT)
        for name, speed in SPEEDS.items():
            runs_of_times = [page.evaluate(SCROLL, list(speed)) for _ in range(runs)]
            times = min(runs_of_times, key=max)
            record["frames"][name] = {
                "step_px": speed[0],
                "count": len(times),
                "median_ms": statistics.median(times),
                "longest_ms": max(times),
                "over_100_ms": sum(one > 100 for one in times),
                "longest_of_all_runs_ms": max(map(max, runs_of_times)),
                "longest_script_ms": page.evaluate("window.scriptTimes.splice(0).reduce((a, b) => Math.max(a, b))"),
            }
        record["sort_ms"] = page.evaluate("""async () => {
          const start = performance.now();
          location.hash = '#all=yes&sort=-agreement';
          while (!document.querySelector('#direction[aria-pressed=true]')) await new Promise(requestAnimationFrame);
          return performance.now() - start;
        }""")
        browser.close()
    return record


def _open(browser: Any, index: Path, address: str) -> tuple[float, float | None]:
    """Milliseconds from the start of the navigation until the view can be used, and until its images are there."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{index.absolute().as_uri()}{address}")
    usable = page.wait_for_function(USABLE, polling=5).json_value()
    images = page.wait_for_function(IMAGES, polling=5).json_value() if address else None
    page.close()
    return usable, images


def table(records: list[Record]) -> str:
    (record,) = records
    frames = record["frames"]
    rows = [
        ("overview usable after", f"{record['usable_ms']['overview']:.0f} ms"),
        ("grid of all units usable after", f"{record['usable_ms']['all units']:.0f} ms"),
        ("its first images after", f"{record['first_images_ms']:.0f} ms"),
        ("sorted anew after", f"{record['sort_ms']:.0f} ms"),
        *(
            (
                f"longest frame, {one['step_px']} px per frame",
                f"{one['longest_ms']:.0f} ms of {one['count']} frames, median "
                f"{one['median_ms']:.1f} ms; of all runs {one['longest_of_all_runs_ms']:.0f} ms; script at most "
                f"{one['longest_script_ms']:.0f} ms",
            )
            for one in frames.values()
        ),
        ("bytes per unit", f"{record['bytes'] / record['units']:,.0f}"),
        ("written in", f"{record['write_seconds']:.0f} s"),
        ("memory over that of the process before", f"{record['peak_bytes'] / 2**20:.0f} MiB"),
    ]
    head = (f"{record['units']:,} units, {len(SUBJECTS)} images of {record['size']} px each", "")
    return f"{markdown(head, rows)}\n\nHeadless Chromium {record['chromium']}, 1400 x 900 px, from disk."
