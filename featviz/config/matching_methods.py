"""The registry of matching methods: name, what a method needs and gives, its options, and where its code is.

`featviz.align`, `featviz.align_many`, `AlignConfig` and the command line are made from it. Standard library only, so that help
needs no torch: the code of a method is imported when it runs.

A method is a function of a problem (`featviz.matching.problem.MatchingProblem`: the networks, their groups of interchangeable
units, the data, the seed) and of its options. To add one to featviz: one file with the function in `matching/permutation/` or
`matching/linear/`, and one entry in `BUILT_IN`. To add one from outside:

    @featviz.matching_method("by_norm", "pairs units whose weights have the nearest norm")
    def match_by_norm(problem, options):
        def similarity(group):  # (n, n): A's units in rows, B's in columns
            a, b = (norms_of_units(model, group) for model in problem.models)
            return -abs(a[:, None] - b)

        return match_by_similarity(problem.groups, similarity)  # featviz.matching.assignment

    alignment = featviz.align(a, b, example, "by_norm")

A method may as well return {group.name: permutation} with B'[i] = B[perm[i]]; it is then scored by the weights.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from typing import Any, NamedTuple

from featviz.config.matching_options import (
    ActivationOptions,
    CCAOptions,
    MethodOptions,
    SinkhornOptions,
    TransportOptions,
    WeightMatchingOptions,
    ZipItOptions,
)
from featviz.config.ranges import in_range
from featviz.errors import AlignmentError, shown

PERMUTATION, LINEAR = "permutation", "linear combination"
SEEDS = 2**62  # the largest seed


@dataclass(frozen=True)
class AlignConfig(ActivationOptions, SinkhornOptions, ZipItOptions, CCAOptions, TransportOptions):
    """How networks are aligned: the method, its seed, and the options of all methods that come with featviz.

    Options of other methods than the chosen one do not count. A method that was registered from outside takes its own options.

    Raises:
        AlignmentError: there is no such method, or a value is out of its range.
    """

    method: str = "weights"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        method_named(self.method)
        object.__setattr__(self, "seed", in_range("seed", self.seed, 0, SEEDS, AlignmentError))


class MatchingMethod(NamedTuple):
    """An entry of the registry.

    Args:
        name: by which `align` and the command line know it.
        summary: one line for the command line's help.
        gives: `PERMUTATION` (B's units are put in A's order) or `LINEAR` (merged units combine units of both networks).
        needs_data: whether it compares activations, and so needs `data`.
        options: the class of its options.
        pair: the function for two networks, or where it is, "module:function"; (problem, options) -> a `Matching`, or
            {group: permutation}, or for `LINEAR` a `LinearCombination`. None: only for `align_many`.
        many: the function for any number of networks; (problem, options) -> {group: permutation} of every network, and the
            objective that was reached. None: every network is aligned with the first one by `pair`.
        control: whether it ignores what the units do (identity, random), as a baseline.
    """

    name: str
    summary: str
    gives: str = PERMUTATION
    needs_data: bool = False
    options: type[MethodOptions] = MethodOptions
    pair: str | Callable[..., Any] | None = None
    many: str | Callable[..., Any] | None = None
    control: bool = False


_WEIGHTS, _ACTIVATIONS = "featviz.matching.permutation.weights", "featviz.matching.permutation.activations"
_BASELINES, _LINEAR = "featviz.matching.permutation.baselines", "featviz.matching.linear"
_MANY = "featviz.matching.multi_network"

BUILT_IN = (
    MatchingMethod(
        "weights", "compares weights by coordinate descent; given data, also starts from activation matching",
        options=WeightMatchingOptions, pair=f"{_WEIGHTS}:match_weights", many=f"{_MANY}.match_many:match_weights",
    ),
    MatchingMethod(
        "activations", "compares activations by their correlation", needs_data=True, options=ActivationOptions,
        pair=f"{_ACTIVATIONS}:match_correlations", many=f"{_MANY}.match_many:match_correlations",
    ),
    MatchingMethod(
        "inner", "compares activations by their inner product", needs_data=True, options=ActivationOptions,
        pair=f"{_ACTIVATIONS}:match_inner_products",
    ),
    MatchingMethod(
        "sinkhorn", "goes on from weights by gradient ascent on doubly stochastic matrices", options=SinkhornOptions,
        pair="featviz.matching.permutation.sinkhorn:match_sinkhorn",
    ),
    MatchingMethod("identity", "control: every unit is its own partner", pair=f"{_BASELINES}:match_identity", control=True),
    MatchingMethod("random", "control: random permutations", pair=f"{_BASELINES}:match_random", control=True),
    MatchingMethod(
        "c2m3", "compares the weights of all networks at once by Frank-Wolfe", options=WeightMatchingOptions,
        many=f"{_MANY}.c2m3:match_c2m3",
    ),
    MatchingMethod(
        "zipit", "clusters units of both networks (ZipIt)", LINEAR, True, ZipItOptions, f"{_LINEAR}.zipit:match_zipit"
    ),
    MatchingMethod(
        "cca", "transforms B's units by canonical correlation analysis (CCA Merge)", LINEAR, True, CCAOptions,
        f"{_LINEAR}.cca:match_cca",
    ),
    MatchingMethod(
        "ot", "makes B's units weighted means by optimal transport", LINEAR, True, TransportOptions,
        f"{_LINEAR}.optimal_transport:match_transport",
    ),
)  # fmt: skip
_REGISTRY: dict[str, MatchingMethod] = {method.name: method for method in BUILT_IN}


def matching_method(
    name: str,
    summary: str,
    *,
    gives: str = PERMUTATION,
    needs_data: bool = False,
    options: type[MethodOptions] = MethodOptions,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that registers a function for two networks as a matching method. For the arguments see `MatchingMethod`.

    Raises:
        AlignmentError: another method has that name, or `gives` is neither "permutation" nor "linear combination".
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        register_method(MatchingMethod(name, summary, gives, needs_data, options, pair=function))
        return function

    return register


def register_method(method: MatchingMethod) -> None:
    """Add a method to the registry.

    Raises:
        AlignmentError: another method has its name, or `gives` is neither "permutation" nor "linear combination".
    """
    if method.gives not in (PERMUTATION, LINEAR):
        raise AlignmentError(f"a method gives {method.gives!r}: use {PERMUTATION!r} or {LINEAR!r}.")
    known = _REGISTRY.get(method.name)
    if known is not None and (known in BUILT_IN or _name_of(known) != _name_of(method)):
        raise AlignmentError(f"there is a method {method.name!r} already ({known.summary}): choose another name.")
    _REGISTRY[method.name] = method


def _name_of(method: MatchingMethod) -> tuple[str, str]:
    """Module and name of the function: a module that is loaded again registers its methods again."""
    return getattr(method.pair, "__module__", ""), getattr(method.pair, "__qualname__", str(method.pair))


def methods(networks: int = 2) -> dict[str, MatchingMethod]:
    """The methods that align two networks, or any greater number, by name."""
    return {
        name: method
        for name, method in _REGISTRY.items()
        if (method.pair is not None if networks == 2 else method.gives == PERMUTATION)
    }


def method_named(name: object, networks: int | None = None) -> MatchingMethod:
    """The method of that name, for two networks, for a greater number, or for any where `networks` is None.

    Raises:
        AlignmentError: there is no such method; with the names that are near.
    """
    known = _REGISTRY if networks is None else methods(networks)
    if not isinstance(name, str) or name not in known:
        wanted = "" if networks in (None, 2) else f" for {networks} networks"
        other = " (it needs align_many)" if networks == 2 and name in methods(3) else ""
        names = ", ".join(map(repr, known))
        raise AlignmentError(f"there is no method {shown(name)}{wanted}{other}: use one of {names}.")
    return known[name]


def function_of(place: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that an entry names, imported where it is "module:function"."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def resolve(
    method: str | None,
    seed: int | None,
    restarts: int | None,
    options: MethodOptions | None,
    networks: int = 2,
    default: str = AlignConfig.method,
) -> tuple[MatchingMethod, int, MethodOptions]:
    """The method, the seed and the method's options, from what a caller of `align` gave; arguments count before options.

    Raises:
        AlignmentError: no such method, options of another method, or a value out of its range.
    """
    config = options if isinstance(options, AlignConfig) else None
    if method is None:
        method = default if config is None else config.method
    chosen = method_named(method, networks)
    if options is None or config is not None:
        values = (
            {} if config is None else {one.name: getattr(config, one.name, MISSING) for one in fields(chosen.options)}
        )
        own = chosen.options(**{name: value for name, value in values.items() if value is not MISSING})
    elif isinstance(options, chosen.options):
        own = options
    else:
        raise AlignmentError(
            f"options are {type(options).__name__} and method {chosen.name!r} takes {chosen.options.__name__} or AlignConfig: "
            "give the method that they are for."
        )
    if restarts is not None and any(one.name == "restarts" for one in fields(own)):
        own = replace(own, restarts=restarts)
    if seed is None:
        seed = AlignConfig.seed if config is None else config.seed
    return chosen, in_range("seed", seed, 0, SEEDS, AlignmentError), own


class OptionArgument(NamedTuple):
    """What the command line needs to know of an option: `--name`, its default, its help with the methods that take it."""

    name: str
    default: Any
    help: str
    read: Callable[[str], Any]

    @property
    def default_text(self) -> str:
        """The default as it is written on the command line."""
        return ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)


def option_arguments(networks: int = 2) -> list[OptionArgument]:
    """One for every option of the methods for that many networks, those registered from outside among them."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for method in methods(networks).values():
        for one in fields(method.options):
            found.setdefault(one.name, (one, []))[1].append(method.name)
    return [
        OptionArgument(name, one.default, f"{', '.join(users)}: {one.metadata['help']}", _reader(one.default))
        for name, (one, users) in found.items()
    ]


def _reader(default: Any) -> Callable[[str], Any]:
    return (lambda text: tuple(map(float, text.split(",")))) if isinstance(default, tuple) else type(default)
