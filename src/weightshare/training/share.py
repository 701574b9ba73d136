"""What layers share, by name, as a configuration holds it."""

from dataclasses import dataclass
from typing import Literal

from weightshare.depth import fuse as fusions
from weightshare.depth import topology
from weightshare.depth.templates import Init, Templates, Within
from weightshare.depth.tie import Tie
from weightshare.depth.transform import LoRA, Scale
from weightshare.errors import ConfigError

OrderName = Literal["sequential", "strided", "random"]
SpreadName = Literal["uniform", "front", "middle", "back"]
FusionName = Literal[
    "first", "mean", "weighted_mean", "permuted_mean", "least_squares", "scalar_weighted", "channel_weighted"
]
OF_TEMPLATES = ("templates", "budget", "init", "within", "across_widths")


@dataclass(frozen=True)
class Share:
    """One `Tie`, or one `Templates`, and where it applies, by names.

    Args:
        rate: Share rate; or
        slots: the slot of each layer; or
        templates: how many templates the layers of a group mix; or
        budget: how many numbers the whole model may store, a count or a fraction, for that to be found. Of what
            follows, `init`, `within`, `across_widths` and `where` go with these two, the rest with a rate or slots.
        order: `sequential`, `strided` or `random`.
        order_seed: Seed of the random order.
        spread: `uniform`, `front`, `middle` or `back`.
        fuse: `first`, `mean`, `weighted_mean`, `permuted_mean`, `least_squares` (from some training images),
            or, with `through` alone, `scalar_weighted` or `channel_weighted`.
        weights: Of `weighted_mean`, one for each layer.
        through: Whether all that is fused is trained, and fused in each forward pass.
        lora: Rank of what each layer adds of its own, or nothing.
        scale: Whether each layer scales what it reads: by a `scalar`, or for each `channel`; or nothing.
        init: Of templates: `orthogonal`, `sparse` or `from_pretrained`.
        within: Of templates: whether a group is of a `stage` or of the whole `model`.
        across_widths: Of templates: whether narrower layers read slices of those of wider ones.
        where: A glob, a list of globs and exclusions (`!*norm*`), or nothing for all that fits.
    """

    rate: float | None = None
    slots: list[int] | None = None
    order: OrderName = "sequential"
    order_seed: int = 0
    spread: SpreadName = "uniform"
    fuse: FusionName = "first"
    weights: list[float] | None = None
    through: bool = False
    lora: int | None = None
    scale: Literal["scalar", "channel"] | None = None
    templates: int | None = None
    init: Init = "orthogonal"
    within: Within = "stage"
    across_widths: bool = False
    budget: int | float | None = None
    where: str | list[str] | None = None

    @property
    def spec(self) -> Tie | Templates:
        """The spec that the names stand for.

        Raises:
            ConfigError: If its values do not go together.
            SpecError: If one is out of its range.
        """
        mixes = self.templates is not None or self.budget is not None
        given = {name for name, entry in self.__dataclass_fields__.items() if getattr(self, name) != entry.default}
        for name in sorted(given - {"where"}):
            if (name in OF_TEMPLATES) != mixes:
                kinds = ["templates", "a rate or slots"]
                goes, not_with = kinds if name in OF_TEMPLATES else reversed(kinds)
                raise ConfigError(f"share.{name} goes with {goes}, not with {not_with}.")
        if mixes:
            return Templates(self.templates, self.init, self.within, self.across_widths, self.budget)
        order = topology.random(self.order_seed) if self.order == "random" else getattr(topology, self.order)
        if (self.weights is not None) != (self.fuse == "weighted_mean"):
            raise ConfigError("share: weights go with fuse: weighted_mean, and it needs them.")
        fusion = fusions.weighted_mean(self.weights) if self.weights is not None else getattr(fusions, self.fuse)
        if self.lora is not None and self.scale is not None:
            raise ConfigError("share: lora and scale do not go together: a layer has one transform.")
        own = None if self.lora is None else LoRA(self.lora)
        own = own if self.scale is None else Scale(self.scale)
        slots = None if self.slots is None else tuple(self.slots)
        fuse = fusions.through(fusion) if self.through else fusion
        return Tie(self.rate, order, slots, fuse, getattr(topology, self.spread), own)
