"""What works on scalars, by name, as a configuration holds it: regularisers, and codebooks."""

from dataclasses import dataclass
from typing import Literal

from weightshare.depth.regularise import SimilarityPenalty
from weightshare.errors import ConfigError
from weightshare.hooks import expect_number
from weightshare.values.baselines import BetaLasso, Subgradient
from weightshare.values.codebook import Codebook
from weightshare.values.proximal import Proximal, Ramp

Kind = Literal["proximal", "subgradient", "beta_lasso", "layer_similarity"]


@dataclass(frozen=True)
class Regularise:
    """One regulariser and where it applies.

    Args:
        kind: `proximal` (`weightshare.Proximal`), or a baseline: `subgradient` of the same penalty, `beta_lasso`; or,
            of layers that mix templates, `layer_similarity`.
        strength: Of the pairwise penalty; of β-lasso, λ; of `layer_similarity`, of `1 − |cos|` averaged over pairs.
        l1: Of `proximal`: strength of the ℓ1 norm.
        rewind: Of `proximal`: ρ, 0 to 1.
        rewind_to: ρ at the end of training, which it goes to in equal steps; nothing for a constant.
        every: Of `proximal`: apply it after every so many steps.
        granularity: Of `proximal`: `layer`, `row`, `filter` or `tap`.
        exact_every: Of `proximal`: after how many steps the exact map is applied; 0 is at the end alone.
        l1_per_step: Of `proximal`: whether the learning rate scales the ℓ1 threshold.
        beta: Of `beta_lasso`.
        warmup: Of `layer_similarity`: fraction of all steps over which its strength rises from 0, 0 to 1.
        where: A glob, a list of globs, or nothing for the weights of linear and convolutional layers; of
            `layer_similarity` layers that mix templates, each standing for its group, or nothing for all of them.

    Raises:
        ConfigError: If a value does not go with the kind.
        SpecError: If a value is out of its range.
    """

    kind: Kind = "proximal"
    strength: float = 0.0
    l1: float = 0.0
    rewind: float = 0.0
    rewind_to: float | None = None
    every: int = 1
    granularity: Literal["layer", "row", "filter", "tap"] = "layer"
    exact_every: int = 0
    l1_per_step: bool = True
    beta: float = 50.0
    warmup: float = 0.0
    where: str | list[str] | None = None

    def __post_init__(self) -> None:
        mine = {"proximal": ("l1", "rewind", "rewind_to", "every", "granularity", "exact_every", "l1_per_step")}
        mine |= {"beta_lasso": ("beta",), "subgradient": (), "layer_similarity": ("warmup",)}
        defaults = type(self).__dataclass_fields__
        for kind, names in mine.items():
            for name in names:
                if kind != self.kind and getattr(self, name) != defaults[name].default:
                    raise ConfigError(f"regularise.{name} goes with kind: {kind}, not with {self.kind}.")
        self.spec(steps=1)
        expect_number("regularise.warmup", self.warmup, 0, 1)
        if not self.strength and not self.l1:
            raise ConfigError("regularise: there is nothing to do; give strength, or l1, above 0.")

    def spec(self, steps: int) -> Proximal | Subgradient | BetaLasso | SimilarityPenalty:
        """What the names stand for, in a training of so many steps."""
        if self.kind == "subgradient":
            return Subgradient(self.strength)
        if self.kind == "beta_lasso":
            return BetaLasso(self.strength, self.beta)
        if self.kind == "layer_similarity":
            rise = round(self.warmup * steps)
            return SimilarityPenalty(self.strength, Ramp(0.0, 1.0, rise) if rise else None)
        rewind = self.rewind if self.rewind_to is None else Ramp(self.rewind, self.rewind_to, steps)
        return Proximal(
            self.strength, self.l1, rewind, self.every, self.granularity, self.exact_every, self.l1_per_step
        )


@dataclass(frozen=True)
class Cluster:
    """Weights that read codebooks, and where; see `weightshare.Codebook`.

    Args:
        clusters: Values of each weight; nothing for those that it has.
        init: `kmeans` or `quantiles`.
        gradient: `mean` or `sum` of the members' gradients.
        zeros: `train` or `keep`.
        seed: Of k-means.
        where: A glob, a list of globs, or nothing for the weights of linear and convolutional layers.

    Raises:
        SpecError: If a value is out of its range.
    """

    clusters: int | None = None
    init: Literal["kmeans", "quantiles"] = "kmeans"
    gradient: Literal["mean", "sum"] = "mean"
    zeros: Literal["train", "keep"] = "train"
    seed: int = 0
    where: str | list[str] | None = None

    def __post_init__(self) -> None:
        self.spec  # noqa: B018 - it refuses what is out of range

    @property
    def spec(self) -> Codebook:
        """The spec that the names stand for."""
        return Codebook(self.clusters, self.init, self.gradient, self.zeros, self.seed)
