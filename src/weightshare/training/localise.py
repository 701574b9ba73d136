"""What works on positions, by name, as a configuration holds it: which layers become local, and when they sleep."""

from dataclasses import dataclass
import math
from typing import Any, Literal

from torch import nn

from weightshare.errors import ConfigError
from weightshare.space.convert import LocalPlan, plan_local
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep


@dataclass(frozen=True)
class Localise:
    """Convolutions that become locally connected; see `weightshare.localize_`.

    Args:
        where: A glob, a list of globs, or nothing for all convolutions.
        keep_first: How many of these, in the order in which they run, stay convolutions.
        start: `draw` gives every position kernels of its own from the start, as in the paper; `copy` the kernel of the
            convolution, for networks that are trained already.
        eps: Noise, relative: of `copy` on the copies; of `draw`, above 0, on one drawn kernel for all positions.

    Raises:
        ConfigError: If a value is out of its range.
    """

    where: str | list[str] | None = None
    keep_first: int = 0
    start: Literal["draw", "copy"] = "draw"
    eps: float = 0.0

    def __post_init__(self) -> None:
        if self.keep_first < 0 or not (math.isfinite(self.eps) and self.eps >= 0):
            raise ConfigError(f"localise: keep_first={self.keep_first}, eps={self.eps}: need numbers of at least 0.")

    def apply_(self, model: nn.Module, example_input: Any) -> LocalPlan:
        """Convert a model's convolutions and start them; returns the plan."""
        copied = self.eps if self.start == "copy" else 0.0
        made = plan_local(model, example_input, self.where, self.keep_first, copied)
        made.apply_(model)
        if self.start == "draw":
            for row in made.rows:
                layer: Any = model.get_submodule(row.path)
                assert isinstance(layer, LocalLayer)
                layer.reset_parameters(self.eps or None)
        return made


@dataclass(frozen=True)
class SleepPhase:
    """When local layers sleep, and how; see `weightshare.Sleep`.

    Args:
        every: After how many steps, or epochs.
        mode: `instant` or `hebbian`.
        strength: How far kernels move, 0 to 1.
        unit: `step` or `epoch`.
        borders: `together` or `apart`: whether positions that see padding share with those that do not.
        period: Of the repeating input; nothing for that of each layer's kernel, 1 for all positions together.
        lr: Of `hebbian`.
        gamma: Of `hebbian`: how strongly kernels are held where a sleep began.
        iterations: Of `hebbian`: steps of a sleep.
        noise: Of `hebbian`: standard deviation of what each position sees besides its pattern.
        where: A glob, a list of globs, or nothing for all local layers.

    Raises:
        ConfigError: If a value does not go with the mode.
        SpecError: If a value is out of its range.
    """

    every: int = 10
    mode: Literal["instant", "hebbian"] = "instant"
    strength: float = 1.0
    unit: Literal["step", "epoch"] = "step"
    borders: Literal["together", "apart"] = "together"
    period: int | None = None
    lr: float = 0.1
    gamma: float = 1e-5
    iterations: int = 100
    noise: float = 0.0
    where: str | list[str] | None = None

    def __post_init__(self) -> None:
        defaults = type(self).__dataclass_fields__
        for name in ("lr", "gamma", "iterations", "noise"):
            if self.mode == "instant" and getattr(self, name) != defaults[name].default:
                raise ConfigError(f"sleep.{name} goes with mode: hebbian, not with {self.mode}.")
        self.spec  # noqa: B018 - it refuses what is out of range

    @property
    def spec(self) -> Sleep:
        """What the names stand for."""
        rule = Hebbian(self.lr, self.gamma, self.iterations, noise=self.noise)
        mode = rule if self.mode == "hebbian" else "instant"
        return Sleep(self.every, mode, self.strength, self.unit, Lattice(self.period, self.borders))
