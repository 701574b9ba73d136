"""What proximal weight sharing is compared with: the subgradient of the penalty, and β-lasso.

Plain training needs nothing, and ℓ1 by its proximal map is `Proximal(strength=0, l1=...)`.
"""

from dataclasses import dataclass

import torch
from torch import nn

from weightshare._typing import Where
from weightshare.hooks import Handle, add_to_gradient, expect_number
from weightshare.surgery.count import distinct
from weightshare.surgery.shards import local_part, placed_like, whole
from weightshare.values.choice import trained_weights
from weightshare.values.pairwise import pairwise_penalty, pairwise_subgradient


@dataclass(frozen=True)
class Subgradient:
    """Add a subgradient of `strength·R` to the gradient before every step. Weights come close, and never together.

    Args:
        strength: At least 0.

    Source: Shakerinava 2023, the subgradient descent baseline.
    Differs: Nothing. (The public code computes the penalty on detached numbers, so that it has no gradient at all.)

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> _ = Subgradient(strength=1.0).attach_(optimizer, net)
        >>> _ = net.weight.data.copy_(torch.tensor([[0.0, 3.0]]))
        >>> net.weight.grad = torch.zeros(1, 2)
        >>> optimizer.step()
        >>> net.weight.data
        tensor([[0.5000, 2.5000]])
    """

    strength: float

    def __post_init__(self) -> None:
        expect_number("Subgradient(strength)", self.strength)

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where = None) -> "SubgradientHandle":
        """Run before every step of an optimizer from now on; arguments and errors as for `Proximal.attach_`."""
        return SubgradientHandle(optimizer, model, trained_weights(model, where, "Subgradient"), self)


class Baseline(Handle):
    """A handle that counts equal weights as they are; abstract."""

    def measure(self) -> dict[str, dict[str, float]]:
        """For each path `weights`, `distinct` values, how many are `zero`, and the `penalty` `R`; changes nothing."""
        rows = {}
        for site in self.sites:
            weights = whole(site.tensor)
            rows[site.path] = {
                "weights": weights.numel(),
                "distinct": distinct(weights),
                "zero": int((weights == 0).sum()),
                "penalty": float(pairwise_penalty(weights)),
            }
        return rows

    def after(self) -> None:
        """Nothing, where the step was the optimizer's alone."""


class SubgradientHandle(Baseline):
    """What `Subgradient.attach_` returns."""

    spec: Subgradient

    def before(self) -> None:
        for site in self.sites:
            pull = placed_like(site.tensor, pairwise_subgradient(whole(site.tensor)))
            add_to_gradient(site.tensor, pull, self.spec.strength, self.optimizer)


@dataclass(frozen=True)
class BetaLasso:
    """β-lasso: add `strength·sign(w)` to the gradient, step, then put weights below `beta·strength` to 0.

    Args:
        strength: `λ`, at least 0.
        beta: `β`, at least 0; 50 in the source.

    Source: Neyshabur 2020 ("Towards learning convolutions from scratch"), algorithm 1; a baseline of Shakerinava 2023.
    Differs: Nothing.
    """

    strength: float
    beta: float = 50.0

    def __post_init__(self) -> None:
        expect_number("BetaLasso(strength)", self.strength)
        expect_number("BetaLasso(beta)", self.beta)

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where = None) -> "BetaLassoHandle":
        """Run around every step of an optimizer from now on; arguments and errors as for `Proximal.attach_`."""
        return BetaLassoHandle(optimizer, model, trained_weights(model, where, "BetaLasso"), self)


class BetaLassoHandle(Baseline):
    """What `BetaLasso.attach_` returns."""

    spec: BetaLasso

    def before(self) -> None:
        for site in self.sites:
            add_to_gradient(site.tensor, site.tensor.detach().sign(), self.spec.strength, self.optimizer)

    @torch.no_grad()
    def after(self) -> None:
        for site in self.sites:
            weights, _ = local_part(site.tensor)
            weights.masked_fill_(weights.abs() < self.spec.beta * self.spec.strength, 0.0)
            torch.autograd.graph.increment_version(site.tensor)
