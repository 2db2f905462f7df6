"""Train networks of the zoo on CIFAR-10, one per seed: the pairs that the benchmarks merge.

    uv run python benchmarks/merging.py train --data cifar/ --arch resnet20 --width 2 --seeds 0 1 --out runs/
    uv run python benchmarks/merging.py train --data cifar/ --download ...        # torchvision fetches CIFAR-10

Each seed leaves `<arch>-x<width>-s<seed>.safetensors` (with `-classes0-1` or `-from-<start>` where that was asked for) and a
`.json` card with the recipe and the accuracies. A run that was stopped goes on from its last finished epoch. The recipe: SGD
with Nesterov momentum, one-cycle learning rate, random crop and flip, label smoothing, a first part at a reduced resolution,
and short cycles at lower rates, over whose ends the weights are averaged (stochastic weight averaging, Izmailov et al. 2018).
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from featviz.merging.batchnorm import reset_batchnorm
from featviz.zoo.resnet import CifarResNet
from featviz.zoo.vgg import CifarVGG
from measures.cifar import Batches, add_cifar, load_cifar

NAME = "train"
ARCHITECTURES = {
    "resnet20": lambda width: CifarResNet(20, int(width)),
    "vgg11": lambda width: CifarVGG(11, width),
    "vgg11_bn": lambda width: CifarVGG(11, width, batch_norm=True),
    "vgg16": lambda width: CifarVGG(16, width),
    "vgg16_bn": lambda width: CifarVGG(16, width, batch_norm=True),
}


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, None, None)
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
    parser.add_argument("--classes", type=int, nargs="+", default=[], help="train on the images of these classes alone")
    parser.add_argument("--start", type=Path, metavar="FILE", help="fine-tune these weights, trained here before")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train_data, test_data = (load_cifar(args.data, part, args.download) for part in (True, False))
    polish = tuple((int(cycle.partition(":")[0]), float(cycle.partition(":")[2])) for cycle in args.polish)
    for seed in args.seeds:
        recipe = Recipe(
            args.arch, args.width, seed, args.epochs, args.batch, args.lr, small_epochs=args.small_epochs, polish=polish,
            classes=tuple(args.classes), start=args.start.stem if args.start else "",
        )  # fmt: skip
        model = ARCHITECTURES[args.arch](args.width)
        train_set, test_set = (
            Batches(*of_classes(*data, args.classes), model.mean, model.std) for data in (train_data, test_data)
        )
        training = Training(recipe, train_set, test_set, args.out, args.device)
        if args.start:
            training.model.load_state_dict(load_file(args.start))
        training.run()


def of_classes(images: Tensor, labels: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Images and labels of some classes; none named: of all."""
    chosen = torch.isin(labels, torch.tensor(classes)) if classes else torch.ones_like(labels, dtype=torch.bool)
    return images[chosen], labels[chosen]


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
    classes: tuple[int, ...] = ()  # of the images it sees; (): all. The accuracy is of these
    start: str = ""  # the weights that are fine-tuned; "": fresh ones

    @property
    def name(self) -> str:
        classes = f"-classes{'-'.join(map(str, self.classes))}" if self.classes else ""
        return f"{self.arch}-x{self.width:g}{classes}{f'-from-{self.start}' if self.start else ''}-s{self.seed}"

    @property
    def cycles(self) -> list["Cycle"]:
        """The long cycle of the learning rate, then the short ones."""
        cycles = [Cycle(0, self.epochs, self.lr, self.warmup)]
        for epochs, lr in self.polish:
            cycles.append(Cycle(cycles[-1].last, epochs, lr, 0.05))
        return cycles


@dataclasses.dataclass(frozen=True)
class Cycle:
    """One learning-rate cycle: the epochs before it, its epochs, its highest rate, the part of it that warms up."""

    first: int
    epochs: int
    lr: float
    warmup: float

    @property
    def last(self) -> int:
        return self.first + self.epochs


class Training:
    """One network through its cycles; a finished one goes on where the recipe now asks for more of them."""

    def __init__(self, recipe: Recipe, train_set: Batches, test_set: Batches, out: Path, device: str) -> None:
        self.recipe, self.train_set, self.test_set, self.device = recipe, train_set, test_set, device
        self.card, self.weights, self.checkpoint = (
            out / f"{recipe.name}{end}" for end in (".json", ".safetensors", ".resume.pt")
        )
        self.ends = [out / f"{recipe.name}-cycle{number}.safetensors" for number in range(len(recipe.cycles))]
        self.history: list[dict[str, float]] = []
        torch.manual_seed(recipe.seed)
        self.model = ARCHITECTURES[recipe.arch](recipe.width).to(device, memory_format=torch.channels_last)

    def run(self) -> None:
        """Train what is missing; leave the weights and the card."""
        described = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        if self.card.exists():
            card = json.loads(self.card.read_text())
            if card["recipe"] == described:
                print(f"{self.recipe.name}: already trained")
                return
            self.history = card["history"]
            self.model.load_state_dict(load_file([end for end in self.ends if end.exists()][-1]))
        began = time.monotonic()
        for cycle, end in zip(self.recipe.cycles, self.ends, strict=True):
            if cycle.epochs and len(self.history) < cycle.last:
                self._train_cycle(cycle)
                _save(self.model.state_dict(), end)
        if len(self.ends) > 1:
            self._average_cycles()
        card = {
            "recipe": described, "history": self.history, "test_accuracy": accuracy(self.model, self.test_set),
            "seconds": time.monotonic() - began, "machine": platform.machine(), "torch": torch.__version__,
        }  # fmt: skip
        _save(self.model.state_dict(), self.weights)
        self.card.write_text(json.dumps(card, indent=1) + "\n")
        print(f"{self.recipe.name}: test {card['test_accuracy']:.2f} %")
        self.checkpoint.unlink(missing_ok=True)

    def _train_cycle(self, cycle: Cycle) -> None:
        """The epochs of one cycle; goes on from the checkpoint where there is one."""
        recipe, model = self.recipe, self.model
        decayed = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, cycle.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
        steps = len(self.train_set.images) // recipe.batch
        schedule = OneCycleLR(
            optimizer, cycle.lr, cycle.epochs * steps, pct_start=cycle.warmup, anneal_strategy="linear",
            cycle_momentum=False, final_div_factor=1e3,
        )  # fmt: skip
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            if cycle.first < state["epoch"] <= cycle.last:
                for name, part in parts.items():
                    part.load_state_dict(state[name])
                self.history = state["history"]
        for epoch in range(len(self.history), cycle.last):
            loss = self._train_epoch(epoch, optimizer, schedule)
            self.history = [*self.history, {"loss": loss, "test": accuracy(model, self.test_set)}]
            print(
                f"{recipe.name}: epoch {epoch + 1}, loss {loss:.3f}, test {self.history[-1]['test']:.2f} %", flush=True
            )
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"epoch": epoch + 1, "history": self.history}, self.checkpoint.with_suffix(".part"))
            os.replace(self.checkpoint.with_suffix(".part"), self.checkpoint)

    def _train_epoch(
        self, epoch: int, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> float:
        """One pass over the training images in an order of its own; the mean loss."""
        recipe, data = self.recipe, self.train_set
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        steps = len(data.images) // recipe.batch
        order = torch.randperm(len(data.images), generator=generator)[: steps * recipe.batch]
        self.model.train()
        total = torch.zeros(())
        name = f"{recipe.name} epoch {epoch + 1}/{recipe.cycles[-1].last}"
        for index in tqdm(order.split(recipe.batch), desc=name, mininterval=2):
            x = augment(data.images[index], recipe, epoch, data, generator).to(self.device)
            y = data.labels[index].to(self.device)
            with torch.autocast(self.device, dtype=torch.bfloat16):
                logits = self.model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total = total + loss.detach().cpu()
        return float(total) / steps

    def _average_cycles(self) -> None:
        """The mean of the weights at the ends of all cycles, with BatchNorm statistics measured afresh."""
        parts = [load_file(end) for end in self.ends]
        mean = {key: torch.stack([part[key].double() for part in parts]).mean(0) for key in parts[0]}
        self.model.load_state_dict({key: value.to(parts[0][key].dtype) for key, value in mean.items()})
        data = self.train_set
        order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))[:10000]
        mixed = Batches(data.images[order], data.labels[order], data.mean, data.std)  # in random order: classes mixed
        reset_batchnorm(self.model.eval(), mixed)


def augment(images: Tensor, recipe: Recipe, epoch: int, normal: Batches, generator: torch.Generator) -> Tensor:
    """uint8 (b, 3, 32, 32) -> normalised float: crop after a reflected pad, flip, reduce the resolution early on."""
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


def _save(weights: dict[str, Tensor], path: Path) -> None:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
