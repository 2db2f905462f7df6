"""Every default of featviz: frozen dataclasses of plain values (no torch), from which the command line is made too."""

from dataclasses import dataclass, field
from typing import Any

from featviz.config.matching_methods import AlignConfig
from featviz.config.ranges import each, in_range, number, numbers, one_of
from featviz.errors import AlignmentError, AtlasError, RenderError, shown

PARAMETERIZATIONS = ["fourier", "pixel", "maco"]  # and those added by `featviz.register_parameterization`


@dataclass(frozen=True)
class Quality:
    """How far an ascent goes. Points on the measured curve of quality against time: docs/results.md.

    steps: at most so many. tolerance: a unit has converged when the mean score of its last
    `CONVERGENCE_WINDOW` steps exceeds that of the window before by less than this share of all it has gained since the start,
    both windows behind the first `SETTLING_STEPS`; None: all steps are made.
    """

    steps: int
    tolerance: float | None


QUALITIES = {
    "draft": Quality(48, None),
    "standard": Quality(384, 0.04),
    "paper": Quality(1024, 0.01),
}
CONVERGENCE_WINDOW = 32  # steps
CONVERGENCE_INTERVAL = 16  # steps between two looks at whether units have converged
LEARNING_RATE = 0.12
FIRST_RATE = 4.0  # of the schedule "linear", times lr
SETTLING_STEPS = 64  # in which that schedule falls to lr, and warps narrow to `RenderConfig.final_range`
SATURATION_LIMIT = 3.5  # of a color before the sigmoid: it is then 0.03 or 0.97
MOST_PIXELS = 2**16  # of a side
ROBUSTNESS = ("affine", "lucid", "strong")
Matrix3 = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


def option(default: Any, text: str) -> Any:
    """A field of a configuration that the command line has, too; `text` is its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RenderConfig:
    """How an image is made. Fractions are of the image side, so that one setting serves 32 px and 512 px.

    Raises:
        RenderError: a value out of its range, with the range.
    """

    size: int | tuple[int, int] = option(224, "side of the images in pixels; or height and width, HEIGHTxWIDTH")
    quality: str = option("standard", "how far an ascent goes: draft, standard or paper")
    steps: int | None = option(None, "steps of the ascent, exactly so many (default: until the score has converged)")
    seed: int = option(0, "with layer, unit and restart it decides a unit's start and its random transforms")
    lr: float | None = option(None, f"step size of AdamW (default: {LEARNING_RATE})")  # Lucid: 0.05
    # Lucid's beta1 is 0.9; under random warps that overshoots
    beta1: float = option(0.5, "decay rate of AdamW's mean of gradients")
    schedule: str = option(
        "linear",
        f"of the step size: linear, from {FIRST_RATE:g} lr to lr in {SETTLING_STEPS} steps; constant; or cosine, from lr to 0",
    )
    weight_decay: float = option(
        1.0,
        "share, times lr, taken off values that a step makes smaller; fourier: in proportion to frequency, this at Nyquist",
    )
    saturation_decay: float = option(
        1.0, "share, times lr, taken off what colors have beyond 0.03 and 0.97, before the sigmoid (fourier, pixel)"
    )
    ema: float = option(
        0.95, "of the running average of the iterates, which is the image at the end; 0: the last iterate"
    )

    parameterization: str = option("fourier", "fourier, pixel, maco (phases alone), or one that was registered")
    sd: float = option(0.01, "standard deviation of the start")
    decay: float = option(1.15, "power of 1/frequency in the Fourier parameterization")
    profile: tuple[float, ...] | None = None  # magnitudes of "maco", by magnitude_profile(data); None: as decay says
    color: str | Matrix3 | None = "imagenet"  # decorrelation matrix, or one measured by color_matrix(data), or None

    robustness: str = option(
        "affine",
        "random transforms: affine (one warp, as below), lucid, or strong (perspective, crops, color, blur, noise)",
    )
    jitter: float = option(1 / 32, "shift of a warp, uniform in +-jitter of the side")
    scale: float = option(0.05, "zoom of a warp, uniform in 1 +- scale")
    rotation: float = option(5.0, "of a warp in degrees, uniform in +-rotation")
    final_range: float = option(
        0.3,
        f"jitter, scale and rotation shrink to this share of themselves in {SETTLING_STEPS} steps; 1: they stay",
    )
    border: str = option("reflection", "what a warp sees outside: reflection, border or zeros (the mean color)")
    input_size: int | tuple[int, int] | None = option(
        None, "side of what the network is fed (default: the images as they are)"
    )

    mean: tuple[float, ...] | None = None  # of the network's input; None: see `featviz.subjects`
    std: tuple[float, ...] | None = None
    restarts: int = option(4, "other starts tried where a unit has no gradient at its first")
    batch: int | str = option("auto", "units rendered together; auto: as many as pay and fit the memory")
    memory: float | None = option(None, "GiB that batch auto may fill with images (default: what is free)")
    precision: str = option("auto", "of the network: float32, bfloat16, float64; auto: bfloat16 where it is native")
    backend: str = option(
        "auto", "how the network is computed: auto, the fastest that gives the same; or eager, plain torch"
    )

    def __post_init__(self) -> None:
        for name in ("size", "input_size"):
            value = getattr(self, name)
            if value is None and name == "input_size":
                continue
            sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
            whole = [number(side, int) for side in sides]
            if len(whole) != 2 or any(side is None or not 1 <= side <= MOST_PIXELS for side in whole):
                raise RenderError(
                    f"{name} is {shown(value)}: give a side in pixels, or (height, width), from 1 to {MOST_PIXELS}."
                )
            self._set(name, tuple(whole) if isinstance(value, (tuple, list)) else whole[0])
        choices = {
            "parameterization": PARAMETERIZATIONS,
            "quality": tuple(QUALITIES),
            "schedule": ("linear", "constant", "cosine"),
            "robustness": ROBUSTNESS,
            "border": ("reflection", "border", "zeros"),
            "precision": ("auto", "float32", "bfloat16", "float64"),
            "backend": ("auto", "eager"),
        }
        for name, allowed in choices.items():
            if not one_of(getattr(self, name), allowed):
                raise RenderError(f"{name} is {shown(getattr(self, name))}: use one of {', '.join(allowed)}.")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                if numbers(value) is None:
                    raise RenderError(f"{name} is {shown(value)}: give finite numbers, one per channel, or None.")
                self._set(name, numbers(value))
        if self.profile is not None:
            profile = numbers(self.profile)
            if profile is None or len(profile) < 2 or min(profile) < 0:
                raise RenderError("profile holds no magnitudes: give two or more numbers of 0 or more, or None.")
            self._set("profile", profile)
        if self.color is not None and not (isinstance(self.color, str) and self.color == "imagenet"):
            rows = each(self.color, numbers)
            if rows is None or [len(row) for row in rows] != [3, 3, 3]:
                raise RenderError(f"color is {shown(self.color)}: use 'imagenet', a 3x3 matrix or None.")
            self._set("color", rows)
        for name, low, high in (
            ("steps", 0, 10**7), ("seed", 0, 2**62), ("lr", 0.0, 100.0), ("sd", 0.0, 100.0), ("decay", 0.0, 10.0),
            ("jitter", 0.0, 0.5), ("scale", 0.0, 0.9), ("rotation", 0.0, 180.0), ("restarts", 0, 1000),
            ("memory", 1e-6, 10**6), ("batch", 1, 10**6), ("beta1", 0.0, 0.999), ("ema", 0.0, 0.999),
            ("weight_decay", 0.0, 10.0), ("saturation_decay", 0.0, 10.0), ("final_range", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if (value is None and name in ("memory", "steps", "lr")) or (name == "batch" and one_of(value, ("auto",))):
                continue
            self._set(name, in_range(name, value, low, high, RenderError))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # a plain number, tuple or None in place of an array's

    @property
    def most_steps(self) -> int:
        """How many steps an ascent makes at most; exactly so many where `steps` is given."""
        return QUALITIES[self.quality].steps if self.steps is None else self.steps

    @property
    def steps_in_words(self) -> str:
        """For the footer of a picture."""
        steps = f"{self.most_steps} step{'s' if self.most_steps != 1 else ''}"
        return steps if self.tolerance is None else f"until converged, at most {steps}"

    @property
    def step_size(self) -> float:
        """Of AdamW: at the last step, or at the first where the schedule is a cosine."""
        return LEARNING_RATE if self.lr is None else self.lr

    @property
    def tolerance(self) -> float | None:
        """That of `Quality`; None: units end after `most_steps` steps, as always where the schedule needs to know the last."""
        fixed = self.steps is not None or self.schedule == "cosine"
        return None if fixed else QUALITIES[self.quality].tolerance

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        size = self.size if self.input_size is None else self.input_size
        return size if isinstance(size, tuple) else (size, size)


HEADS = ("a", "b", "both")  # of a merge, where the networks differ
REPAIRS = ("auto", "none", "batchnorm", "rescale", "repair")


@dataclass(frozen=True)
class MergeConfig:
    """How two aligned networks become one.

    Raises:
        AlignmentError: a value out of its range, with the range.
    """

    weight: float = 0.5  # of B, between -10 and 10; 0 is A, 1 is B', outside these the line is extended
    repair: str = "auto"  # of REPAIRS; auto: batchnorm, or repair where there is no BatchNorm
    points: int = 25  # networks on the line of a loss barrier, both ends included (25: Git Re-Basin)

    def __post_init__(self) -> None:
        weight, points = number(self.weight, float), number(self.points, int)
        if weight is None or not -10 <= weight <= 10:
            raise AlignmentError(
                f"the weight of B is {shown(self.weight)}: it lies between -10 and 10, where 0 is A alone and 1 is B' alone."
            )
        if not one_of(self.repair, REPAIRS):
            raise AlignmentError(f"there is no repair {shown(self.repair)}: use one of {', '.join(REPAIRS)}.")
        if points is None or not 2 <= points <= 10_000:
            raise AlignmentError(
                f"a barrier of {shown(self.points)} points cannot be measured: use a whole number from 2 to 10000."
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "points", points)


@dataclass(frozen=True)
class FateConfig:
    """How sure the verdicts of `featviz.fate` must be.

    Raises:
        AlignmentError: a value out of its range, with the range.
    """

    resamples: int = 200  # of the images, from which a verdict's confidence comes; 1 or more
    level: float = 0.95  # share of resamples that must repeat a verdict, 0 to 1; it is "undecided" otherwise
    seed: int = 0  # of the resamples and of the random alignment

    def __post_init__(self) -> None:
        for name, low, high in (("resamples", 1, 10**6), ("level", 0.0, 1.0), ("seed", 0, 2**62)):
            object.__setattr__(self, name, in_range(name, getattr(self, name), low, high, AlignmentError))


IMAGES = ("raw", "webp")


@dataclass(frozen=True)
class AtlasConfig:
    """How an atlas is kept.

    Raises:
        AtlasError: a value out of its range, with the range.
    """

    exemplars: int = option(4, "natural images kept for each unit of each network, 0 to 100")
    units_per_item: int = option(
        32, "units rendered and written together, and lost at most by a process that is killed"
    )
    images: str = option("raw", "how pictures are kept: raw, or webp, which is lossy")

    def __post_init__(self) -> None:
        for name, low, high in (("exemplars", 0, 100), ("units_per_item", 1, 100_000)):
            object.__setattr__(self, name, in_range(name, getattr(self, name), low, high, AtlasError))
        if not one_of(self.images, IMAGES):
            raise AtlasError(f"images is {shown(self.images)}: use one of {', '.join(IMAGES)}.")


@dataclass(frozen=True)
class DemoConfig:
    """What `featviz demo` shows of the bundled pair."""

    layers: tuple[str, ...] = ("layer1.2.bn2", "layer2.1.bn1", "layer3.1.bn1")
    best: int = 4  # units of a layer with the highest match score
    worst: int = 2  # and with the lowest
    size: int = 64  # canvas in pixels: twice what the pair was trained with


@dataclass(frozen=True)
class DataConfig:
    """How a folder of images is fed to a network."""

    limit: int = 5000  # images, taken evenly from all classes
    batch: int = 250


@dataclass(frozen=True)
class Defaults:
    """All of them, for the command line."""

    render: RenderConfig = field(default_factory=RenderConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    fate: FateConfig = field(default_factory=FateConfig)
    atlas: AtlasConfig = field(default_factory=AtlasConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    data: DataConfig = field(default_factory=DataConfig)
