"""What a run is: the network, what it shares, the data and the schedule, as one configuration that YAML can hold."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
import json
import math
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from weightshare.errors import ConfigError, FileError
from weightshare.files.opening import read_text
from weightshare.training.data import Augment, Prepare
from weightshare.training.distil import Distil
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.plain_yaml import LARGEST, parse_yaml
from weightshare.training.regularise import Cluster, Regularise
from weightshare.training.share import Share

PrecisionName = Literal["32-true", "bf16-mixed", "16-mixed"]
GradientName = Literal["sum", "mean"]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "step", "onecycle"]

LONGEST = 80
"""Characters of a name that are compared to those that are known: the time for it grows with their square."""
MILESTONES, FACTOR = (0.5, 0.75), 0.25
"""Of Pogodin 2021: the learning rate is divided by 4 after 100 and 150 of 200 epochs."""


@dataclass(frozen=True)
class Recipe:
    """A training schedule: an optimizer, linear warm-up, then a learning rate that falls, and what regularises.

    Args:
        epochs: Passes over the training images, at least 1.
        batch_size: Images in a step, over all processes together and copies included, at least 2.
        lr: Highest learning rate.
        weight_decay: Of what `weightshare.param_groups` gives decay to.
        warmup: Fraction of all steps over which the learning rate rises, 0 to 1.
        label_smoothing: 0 to 1.
        clip: Highest norm of the gradient, or nothing.
        lr_scale: `sum` or `mean` of the gradients of a slot's readers; see `weightshare.param_groups`.
        layer_decay: Factor on the learning rate from each layer to the one before, or nothing.
        augment: What varies the training images.
        optimizer: `adamw` or `sgd`.
        momentum: Of `sgd`, 0 to below 1.
        regularise: What drives weights to share, in order.
        sleep: When kernels of local layers are pulled together, in order.
        channels_last: Whether training images lie in memory with channels last. Convolutions of many networks are
            faster so, half as fast again on CPUs, and equal up to rounding.
        schedule: After the warm-up: `cosine` is one cosine to zero, `step` multiplies the learning rate by `factor` at
            each milestone, `onecycle` falls in a straight line to a twentieth, which is reached at two thirds of the
            way, and in another one to zero. ConvMixer's own cycle is `onecycle` with a warm-up of 0.4.
        milestones: Of `step`: fractions of all steps, rising, from the end of the warm-up to below 1.
        factor: Of `step`, above 0 and at most 1.
        distil: What is learnt from a teacher besides, or instead of, the labels; nothing for the labels alone.
        nesterov: Whether the momentum of `sgd` looks ahead (Nesterov's, as torch has it).
        fused: Whether a step of `adamw` is one pass over each weight and its moments instead of a dozen: faster, most
            of all where weights are many, and equal up to rounding. Of CPUs, CUDA and Apple's graphics.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.01
    weight_decay: float = 2e-5
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip: float | None = 1.0
    lr_scale: GradientName = "sum"
    layer_decay: float | None = None
    augment: Augment = field(default_factory=Augment)
    channels_last: bool = False
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.0
    regularise: list[Regularise] = field(default_factory=list)
    sleep: list[SleepPhase] = field(default_factory=list)
    schedule: ScheduleName = "cosine"
    milestones: list[float] = field(default_factory=lambda: [*MILESTONES])
    factor: float = FACTOR
    distil: Distil | None = None
    nesterov: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        copies = self.augment.repeats
        plain = self.schedule != "step"
        rising = sorted({*self.milestones}) == self.milestones and all(self.warmup <= at < 1 for at in self.milestones)
        for name, valid, needed in (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 2, "2 or more, for batch norm"),
            ("lr", math.isfinite(self.lr) and self.lr > 0, "above 0"),
            ("weight_decay", math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup <= 1, "0 to 1"),
            ("label_smoothing", 0 <= self.label_smoothing <= 1, "0 to 1"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "above 0, or nothing"),
            ("momentum", 0 <= self.momentum < 1, "0 to below 1"),
            ("momentum", not self.momentum or self.optimizer == "sgd", "0 for adamw, which has its own"),
            ("nesterov", not self.nesterov or self.momentum > 0, "false, or sgd with momentum above 0"),
            ("fused", not self.fused or self.optimizer == "adamw", "false, or adamw"),
            ("batch_size", self.batch_size % copies == 0, f"a multiple of augment.repeats, {copies}"),
            ("milestones", plain or rising, f"rising fractions from warmup, {self.warmup}, to below 1"),
            ("factor", 0 < self.factor <= 1, "above 0 and at most 1"),
            ("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0 and at most 1, or nothing"),
        ):
            if not valid:
                raise ConfigError(f"train.{name}={getattr(self, name)!r}: need {needed}.")
        for name, default in (("milestones", [*MILESTONES]), ("factor", FACTOR)):
            if plain and getattr(self, name) != default:
                raise ConfigError(f"train.{name} goes with schedule: step, not with {self.schedule}.")


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on.

    Args:
        model: `convmixer:C/D/P/K`, `timm:NAME` or `module:callable`.
        model_args: Further keyword arguments of the model.
        data: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, an `.npz` file or a folder of images.
        data_dir: Where data sets lie; `data` or what `WEIGHTSHARE_DATA` names if nothing.
        prepare: What is done to the data set once: parts of it, pooled, shifted or shuffled images.
        image_size: Side of the square that images of a folder are cut to, in pixels, or nothing.
        init: A file of `weightshare.save` whose weights the model starts from, before it is shared.
        localise: Which convolutions become local, in order, before anything is shared.
        share: What is shared, in order; nothing for a plain network.
        codebook: Which weights read codebooks, in order, once layers share.
        train: The schedule.
        seed: Of the weights, the order of the data, and everything else that is drawn.
        device: `auto`, `cpu`, `cuda` or another accelerator of Lightning Fabric.
        devices: How many of them, one process each; `torchrun` says it instead where it starts the processes.
        strategy: `ddp` or `fsdp2` for several processes, or another strategy of Fabric; `auto` is `ddp` where there are
            several.
        precision: `32-true`, `bf16-mixed` or `16-mixed`: weights are float32 in each.
        checkpoint_minutes: After how many minutes the state of training is kept inside an epoch too.
        timeout_minutes: How long a process waits for the others of a run before it gives the run up.
        tensorboard: Whether to write scalars and pictures for TensorBoard.
        out: The run directory.

    Raises:
        ConfigError: If a value is out of range or could not be written down again.
    """

    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    data_dir: str | None = None
    prepare: Prepare = field(default_factory=Prepare)
    image_size: int | None = None
    init: str | None = None
    localise: list[Localise] = field(default_factory=list)
    share: list[Share] = field(default_factory=list)
    codebook: list[Cluster] = field(default_factory=list)
    train: Recipe = field(default_factory=Recipe)
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: PrecisionName = "32-true"
    checkpoint_minutes: float = 10.0
    timeout_minutes: float = 10.0
    tensorboard: bool = False
    out: str = "runs/run"

    def __post_init__(self) -> None:
        for name, valid, needed in (
            ("seed", 0 <= self.seed < 2**32, "0 to 4294967295"),
            ("devices", self.devices >= 1, "1 or more"),
            ("image_size", self.image_size is None or self.image_size >= 1, "1 or more pixels, or nothing"),
            ("checkpoint_minutes", 0 <= self.checkpoint_minutes < math.inf, "0 or more"),
            ("timeout_minutes", 0 < self.timeout_minutes < math.inf, "above 0"),
            ("out", bool(self.out), "the name of a folder"),
            ("model_args", all(isinstance(key, str) for key in self.model_args), "names as keys"),
        ):
            if not valid:
                raise ConfigError(f"{name}={getattr(self, name)!r}: need {needed}.")
        if self.train.fused and self.train.clip is not None and self.precision == "16-mixed":
            raise ConfigError(
                "train.fused=True with train.clip and precision: 16-mixed: a fused step takes gradients as they were "
                "scaled, and these cannot be clipped. Leave one of the three out."
            )
        try:
            json.dumps(self.model_args, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model_args={self.model_args!r}: need plain values: {error}") from error

    def to_yaml(self) -> str:
        """The whole configuration, defaults included."""
        import yaml

        return yaml.safe_dump(asdict(self), sort_keys=False)


T = TypeVar("T")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values; see `plain_yaml`.

    Raises:
        ConfigError: If the file is missing, is no YAML or no mapping.
    """
    try:
        text = read_text(path, LARGEST)
    except FileError as error:
        raise ConfigError(f"Cannot read the configuration '{path}': {error}") from error
    data = parse_yaml(text, f"'{path}'")
    if not isinstance(data, dict):
        raise ConfigError(f"The configuration '{path}' is a {type(data).__name__}, need keys and values.")
    return data


def strict(kind: type[T], data: Mapping[str, Any], at: str = "") -> T:
    """Build a configuration dataclass from plain values; every key must exist and every value must have its kind.

    Args:
        kind: A dataclass of this module.
        data: Keys and values, as YAML gives them.
        at: Where in the file this is, for messages.

    Returns:
        The dataclass, validated.

    Raises:
        ConfigError: Naming an unknown key with the nearest one that exists, a missing key, or a value of another kind.

    Example:
        >>> recipe = strict(Recipe, {"epochs": 3, "lr": "1e-3", "augment": {"crop": 4}})
        >>> recipe.lr, recipe.augment.crop
        (0.001, 4)
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    for key in data:
        if key not in hints:
            near = get_close_matches(str(key)[:LONGEST], hints, n=1, cutoff=0.0)
            raise ConfigError(
                f"Unknown key {at + str(key)!r}: did you mean {at + near[0]!r}? Known: {', '.join(hints)}."
            )
    for entry in fields(kind):
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in data:
            raise ConfigError(f"The key {at + entry.name!r} is missing.")
    return kind(**{key: _value(hints[key], value, at + key) for key, value in data.items()})


def _value(hint: Any, value: Any, at: str) -> Any:
    """One value as its annotation wants it: exact kinds, but `3` is a float too, and so is YAML's text `1e-3`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return _any_of(arguments, value, at)
    if origin is Literal:
        if value in arguments:
            return value
        near = get_close_matches(str(value)[:LONGEST], arguments, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{at}={value!r}: did you mean {near!r}? Known: {', '.join(arguments)}.")
    if is_dataclass(hint) and isinstance(value, Mapping):
        return strict(hint, value, f"{at}.")  # type: ignore[arg-type]
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, f"{at}[{number}]") for number, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):  # the latter of whole numbers of hundreds of digits
            pass
    if hint is NoneType and value is None:
        return None
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{at}={value!r} is a {type(value).__name__}, need {getattr(hint, '__name__', hint)}.")


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return "nothing" if hint is NoneType else getattr(hint, "__name__", str(hint))


def _any_of(hints: tuple[Any, ...], value: Any, at: str) -> Any:
    for hint in hints:
        listed = get_origin(hint) is list and isinstance(value, list)
        if listed or (is_dataclass(hint) and isinstance(value, Mapping)):
            return _value(hint, value, at)  # its own message names what is wrong
        try:
            return _value(hint, value, at)
        except ConfigError:
            continue
    needed = " or ".join(map(_named, hints))
    raise ConfigError(f"{at}={value!r} is a {type(value).__name__}, need {needed}.")
