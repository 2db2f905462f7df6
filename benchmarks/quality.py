"""How high an ascent climbs for its cost: activation without transforms, beside lucent, on the bundled pair and its merge.

    uv run --isolated --group peers python benchmarks/quality.py --out benchmarks/results/quality.json --readme README.md

For some units each of two layers in A, in B' and in the merged network (by default 96 images): the final image of every way
is shown to the network without any transform, at full precision, and the unit's mean activation is read. lucent is
torch-lucent 0.1.8 with its default transforms, Adam and learning rate, the normalisation that the networks were trained with,
and as many steps as stated; its images are scored in the same way. Rows give the mean over the units of a network's layer as
a multiple of what lucent reaches with its most steps, averaged over the six; the share of the images that reach at least
lucent's activation there; the images that are gray (standard deviation of the pixels under 0.02); and the seconds of the run.
Beside float32: image by image over featviz's in float32 after as many steps, mean and standard deviation. An ascent is chaotic,
so `--control` gives the scale: float32 again, from a start that is larger by one part in a thousand.
"""

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import report
from peers import objectives, param, render_vis, transform
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from featviz.rendering.network.feature_extractor import Trunk
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.loop import score_images
from featviz.subjects import input_normalization

HEAD = "| 64 px | steps | activation (lucent's longest = 1) | images that reach lucent's | gray | beside float32 | seconds |"
LAYERS = ("layer2.1.bn1", "layer3.1.bn1")
SIZE = 64
CONTROL = 1.001  # of the start
EXACT = re.compile(r", (auto|bfloat16|control)")


def networks() -> dict[str, nn.Module]:
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    merged = featviz.merge(pair.a, pair.b, alignment, repair="none")
    merged.load_state_dict(pair.merged_statistics, strict=False)
    return {"A": pair.a, "B'": alignment.permute(pair.b), "merged": merged}


def lucent_images(
    model: nn.Module, layer: str, units: list[int], steps: tuple[int, ...]
) -> dict[int, tuple[Tensor, float]]:
    """Images (unit, 3, h, w) in [0, 1] after so many steps, and the seconds that a run of them takes."""
    fed = input_normalization(model, RenderConfig(), 3)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (fed.mean, fed.std))
    parts = [objectives.channel(layer.replace(".", "_"), unit, batch=place) for place, unit in enumerate(units)]
    torch.manual_seed(0)
    began = time.perf_counter()
    found = render_vis(
        model, objectives.Objective.sum(parts), lambda: param.image(SIZE, batch=len(units)), thresholds=steps,
        transforms=[*transform.standard_transforms, lambda x: (x - mean) / std], preprocess=False, show_image=False,
        progress=False, fixed_image_size=SIZE,
    )  # fmt: skip
    taken = time.perf_counter() - began
    images = [torch.from_numpy(image).permute(0, 3, 1, 2).float() for image in found]
    return {count: (image, taken * count / max(steps)) for count, image in zip(steps, images, strict=True)}


def featviz_images(model: nn.Module, layer: str, units: list[int], config: RenderConfig) -> tuple[Tensor, float]:
    began = time.perf_counter()
    images = featviz.render(model, [f"{layer}:{unit}" for unit in units], config).images
    return images, time.perf_counter() - began


def activation(model: nn.Module, layer: str, units: list[int], images: Tensor) -> Tensor:
    """(unit,) mean over the map, without transforms, in float32."""
    config = RenderConfig(size=SIZE, precision="float32")
    with Trunk(model, (layer,), config) as trunk:
        return score_images(trunk, channel(layer, units), images)


def summary(ways: dict[str, dict[str, dict]]) -> list[dict]:
    """A row for every way: its steps, and its figures over all networks and layers."""
    reference = ways[max((way for way in ways if way.startswith("lucent")), key=lambda way: int(way.split()[1]))]
    rows = []
    for way, places in ways.items():
        scores = {key: torch.tensor(place["score"]) for key, place in places.items()}
        theirs = {key: torch.tensor(reference[key]["score"]) for key in places}
        ratios = [float(scores[key].mean() / theirs[key].mean()) for key in places]
        beside = None
        if (exact := ways.get(EXACT.sub(", float32", way))) is not None and exact is not places:
            each = torch.cat([scores[key] / torch.tensor(exact[key]["score"]) for key in places])
            beside = [each.mean().item(), each.std().item()]
        reached = torch.cat([scores[key] >= theirs[key] for key in places])
        rows.append({
            "way": way.rpartition(" ")[0],
            "steps": int(way.rpartition(" ")[2]),
            "activation": sum(ratios) / len(ratios),
            "reached": reached.float().mean().item(),
            "beside float32": beside,
            "gray": sum(place["gray"] for place in places.values()),
            "seconds": sum(place["seconds"] for place in places.values()),
        })  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for row in rows:
        cells = [row["way"], str(row["steps"]), f"{row['activation']:.2f}", f"{100 * row['reached']:.0f} %"]
        beside = "" if row["beside float32"] is None else "{:.3f} ± {:.3f}".format(*row["beside float32"])
        lines.append("| " + " | ".join([*cells, str(row["gray"]), beside, f"{row['seconds']:.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=16, help="of every layer")
    parser.add_argument("--lucent-steps", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 64, 128, 512])
    parser.add_argument("--lr", type=float, nargs="+", default=[RenderConfig().lr])
    parser.add_argument("--precision", nargs="+", default=["auto", "float32"])
    parser.add_argument("--control", action="store_true", help="float32 again from another start (see above)")
    parser.add_argument("--images", type=Path, help="folder for the images as tensors; lucent's are read from there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    units = list(range(args.units))
    places = [(name, net, layer) for name, net in networks().items() for layer in LAYERS]
    ways: dict[str, dict[str, dict]] = {}

    def keep(way: str, name: str, net: nn.Module, layer: str, images: Tensor, seconds: float) -> None:
        score = activation(net, layer, units, images)
        gray = int((images.flatten(1).std(1) < 0.02).sum())
        ways.setdefault(way, {})[f"{name} {layer}"] = {"score": score.tolist(), "gray": gray, "seconds": seconds}
        if args.images:
            args.images.mkdir(parents=True, exist_ok=True)
            torch.save((images, seconds), args.images / f"{way} {name} {layer}.pt")

    for name, net, layer in tqdm(places, desc="lucent"):
        cached = [args.images / f"lucent {steps} {name} {layer}.pt" for steps in args.lucent_steps if args.images]
        if cached and all(path.exists() for path in cached):
            found = dict(zip(args.lucent_steps, map(torch.load, cached), strict=True))
        else:
            found = lucent_images(net, layer, units, tuple(args.lucent_steps))
        for steps, (images, seconds) in found.items():
            keep(f"lucent {steps}", name, net, layer, images, seconds)
    base = RenderConfig(size=SIZE)
    for precision in [*args.precision, *(["control"] if args.control else [])]:
        for lr in args.lr:
            for steps in tqdm(args.steps, desc=f"{precision}, lr {lr}"):
                config = replace(base, steps=steps, lr=lr, precision=precision.replace("control", "float32"))
                if precision == "control":
                    config = replace(config, sd=CONTROL * config.sd)
                for name, net, layer in places:
                    images, seconds = featviz_images(net, layer, units, config)
                    extra = f", lr {lr:g}" if lr != base.lr else ""
                    keep(f"featviz, {precision}{extra} {steps}", name, net, layer, images, seconds)
    rows = summary(ways)
    report(args, table(rows), rows=rows, ways=ways)


if __name__ == "__main__":
    main()
