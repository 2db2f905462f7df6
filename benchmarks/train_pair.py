"""Train networks of the zoo on CIFAR-10, one per seed: the pairs that the benchmarks merge.

    uv run python benchmarks/train_pair.py --data cifar/ --arch resnet20 --width 2 --seeds 0 1 --out runs/
    uv run python benchmarks/train_pair.py --data cifar/ --download ...        # torchvision fetches CIFAR-10

`--data` is a folder with `train/<class>/*` and `test/<class>/*`, or where torchvision keeps its CIFAR-10. Each seed
leaves `<arch>-x<width>-s<seed>.safetensors` and a `.json` card with the recipe and the accuracies. A run that was
stopped goes on from its last finished epoch. The recipe: SGD with Nesterov momentum, one-cycle learning rate,
random crop and flip, label smoothing, a first part at a reduced resolution, and short cycles at
lower rates, over whose ends the weights are averaged.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import torch
from cifar import Batches, load_cifar
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from featviz.merging.repair import reset_batchnorm
from featviz.zoo.resnet import CifarResNet
from featviz.zoo.vgg import CifarVGG

ARCHITECTURES = {
    "resnet20": lambda width: CifarResNet(20, int(width)),
    "vgg11": lambda width: CifarVGG(11, width),
    "vgg11_bn": lambda width: CifarVGG(11, width, batch_norm=True),
    "vgg16": lambda width: CifarVGG(16, width),
    "vgg16_bn": lambda width: CifarVGG(16, width, batch_norm=True),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one network is trained; written into its card."""

    arch: str
    width: float
    seed: int
    epochs: int
    batch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.2
    small_side: int = 24
    small_epochs: int = 0
    pad: int = 4  # pixels that a crop may shift
    polish: tuple[tuple[int, float], ...] = ()  # further, short cycles: epochs, and the rate that falls to 0
    polish_pad: int = 2
    precision: str = "bfloat16 autocast"

    @property
    def stages(self) -> list[tuple[int, int, float, float]]:
        """Of every cycle: the epochs before it, its epochs, its highest rate, the part of it that warms up."""
        stages = [(0, self.epochs, self.lr, self.warmup)]
        for epochs, lr in self.polish:
            stages.append((sum(stages[-1][:2]), epochs, lr, 0.05))
        return stages

    @property
    def last(self) -> int:
        return sum(self.stages[-1][:2])


def augment(images: Tensor, recipe: Recipe, epoch: int, normal: Batches, generator: torch.Generator) -> Tensor:
    """uint8 (b, 3, 32, 32) -> float: crop after a reflected pad, flip, reduce the resolution early on."""
    batch, _, height, width = images.shape
    pad = recipe.pad if epoch < recipe.epochs else recipe.polish_pad
    padded = F.pad(images.float(), (pad,) * 4, mode="reflect")
    top = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(height)
    left = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(width)
    flip = torch.rand(batch, 1, generator=generator) < 0.5
    left = torch.where(flip, left.flip(1), left)
    rows = torch.arange(batch)
    x = padded.permute(0, 2, 3, 1)[rows[:, None, None], top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
    if epoch < recipe.small_epochs:
        x = F.interpolate(x, size=(recipe.small_side, recipe.small_side), mode="bilinear", antialias=True)
    return ((x / 255 - normal.mean) / normal.std).contiguous(memory_format=torch.channels_last)


def accuracy(model: nn.Module, data: Batches) -> float:
    """Percentage of right answers, in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        right = sum((model(x.to(device)).argmax(1).cpu() == y).sum().item() for x, y in data)
    return 100 * right / len(data.labels)


def train(recipe: Recipe, train_set: Batches, test_set: Batches, out: Path, device: str) -> None:
    """Train one network through its cycles; a finished one goes on where the recipe now asks for more of them.

    The network is the average of the weights at the end of every cycle (stochastic weight averaging, Izmailov et al. 2018),
    with its BatchNorm statistics measured afresh.
    """
    name = f"{recipe.arch}-x{recipe.width:g}-s{recipe.seed}"
    card_path, weights_path, checkpoint = (out / f"{name}{end}" for end in (".json", ".safetensors", ".resume.pt"))
    ends = [out / f"{name}-cycle{number}.safetensors" for number in range(len(recipe.stages))]
    torch.manual_seed(recipe.seed)
    model = ARCHITECTURES[recipe.arch](recipe.width).to(device, memory_format=torch.channels_last)
    history: list[dict[str, float]] = []
    described = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if card_path.exists():
        card = json.loads(card_path.read_text())
        if card["recipe"] == described:
            print(f"{name}: already trained")
            return
        history = card["history"]
        model.load_state_dict(load_file([end for end in ends if end.exists()][-1]))
    began = time.monotonic()
    for (first, epochs, lr, warmup), end in zip(recipe.stages, ends, strict=True):
        if epochs and len(history) < first + epochs:
            history = _stage(
                model, recipe, first, epochs, lr, warmup, history, train_set, test_set, checkpoint, name, device
            )
            _save(model.state_dict(), end)
    if len(ends) > 1:
        parts = [load_file(end) for end in ends]
        mean = {key: torch.stack([part[key].double() for part in parts]).mean(0) for key in parts[0]}
        model.load_state_dict({key: value.to(parts[0][key].dtype) for key, value in mean.items()})
        order = torch.randperm(len(train_set.labels), generator=torch.Generator().manual_seed(0))[:10000]
        mixed = Batches(train_set.images[order], train_set.labels[order], train_set.mean, train_set.std)
        reset_batchnorm(model.eval(), mixed)  # in random order: layers normalise by batch meanwhile
    card = {
        "recipe": described, "history": history, "test_accuracy": accuracy(model, test_set),
        "seconds": time.monotonic() - began, "machine": platform.machine(), "torch": torch.__version__,
    }  # fmt: skip
    _save(model.state_dict(), weights_path)
    card_path.write_text(json.dumps(card, indent=1) + "\n")
    print(f"{name}: test {card['test_accuracy']:.2f} %")
    checkpoint.unlink(missing_ok=True)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)


def _stage(
    model: nn.Module, recipe: Recipe, first: int, epochs: int, lr: float, warmup: float, history: list,
    train_set: Batches, test_set: Batches, checkpoint: Path, name: str, device: str,
) -> list:  # fmt: skip
    """Epochs `first` to `first + epochs` under one learning-rate cycle; goes on from the checkpoint where there is one."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
    steps = len(train_set.images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, epochs * steps, pct_start=warmup, anneal_strategy="linear",
        cycle_momentum=False, final_div_factor=1e3,
    )  # fmt: skip
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if first < state["epoch"] <= first + epochs:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            history = state["history"]
    for epoch in range(len(history), first + epochs):
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        order = torch.randperm(len(train_set.images), generator=generator)[: steps * recipe.batch]
        model.train()
        running = 0.0
        for index in tqdm(order.split(recipe.batch), desc=f"{name} epoch {epoch + 1}/{recipe.last}", mininterval=2):
            x = augment(train_set.images[index], recipe, epoch, train_set, generator).to(device)
            y = train_set.labels[index].to(device)
            with torch.autocast(device, dtype=torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            running += loss.detach()
        history = [*history, {"loss": float(running) / steps, "test": accuracy(model, test_set)}]
        print(
            f"{name}: epoch {epoch + 1}, loss {history[-1]['loss']:.3f}, test {history[-1]['test']:.2f} %", flush=True
        )
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
            "epoch": epoch + 1, "history": history,
        }  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 (see above)")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR-10 into --data")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet20")
    parser.add_argument("--width", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--small-epochs", type=int, default=0, help="epochs at 24 px, before those at 32 px")
    parser.add_argument(
        "--polish", nargs="+", default=[], metavar="EPOCHS:LR", help="further cycles, at lower rates: 6:0.07 4:0.05"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train_data = load_cifar(args.data, train=True, download=args.download)
    test_data = load_cifar(args.data, train=False, download=args.download)
    for seed in args.seeds:
        recipe = Recipe(
            args.arch, args.width, seed, args.epochs, args.batch, args.lr, small_epochs=args.small_epochs,
            polish=tuple((int(cycle.partition(":")[0]), float(cycle.partition(":")[2])) for cycle in args.polish),
        )  # fmt: skip
        model = ARCHITECTURES[args.arch](args.width)
        train_set, test_set = (Batches(*d, model.mean, model.std) for d in (train_data, test_data))
        train(recipe, train_set, test_set, args.out, args.device)


if __name__ == "__main__":
    main()
