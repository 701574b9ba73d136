"""What pulls layers together that mix the same templates: a penalty on the layer similarity matrix.

    P = Σ_groups  mean over pairs i < j of  (1 − |cos(a_i, a_j)|)

It is 0 where all layers of each group are one layer up to a factor, and at most the number of groups. It pulls a row of
coefficients towards the nearer of `a_j` and `−a_j`; it turns rows and leaves their lengths alone. Rows that are exactly
orthogonal are not pulled: there the penalty has a peak, from which the loss has to move them.

Add `similarity_penalty(model)` to a loss, or attach a `SimilarityPenalty` to an optimizer, which adds its gradient
before every step whatever the loop is.

In the grid: the drive towards sharing across depth. Source: Savarese 2019, "regularizing the LSM"; the paper of the
same authors on implicitly recurrent networks (ICLR 2019) has a recurrence regulariser on the same matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weightshare._typing import Where
from weightshare.depth.lsm import expect_mixtures
from weightshare.errors import SpecError
from weightshare.hooks import Handle, add_to_gradient, expect_number
from weightshare.surgery.shards import placed_like, whole
from weightshare.surgery.sites import describe, select


def similarity_penalty(model: nn.Module) -> Tensor:
    """How far layers are from being one: `P = Σ_groups mean_{i<j} (1 − |cos(a_i, a_j)|)`, to be added to a loss.

    Args:
        model: With `Templates` applied.

    Returns:
        A number from 0 to the number of groups, with gradients for the coefficients. A row of zeros counts as
        orthogonal to all, and has the gradient 0.

    Raises:
        NoMatch: If no layers of the model mix templates.

    Source: Savarese 2019, "regularizing the LSM".
    Differs: The poster gives no formula. Ours is a mean over pairs, so that depth does not change a strength, and a sum
        over groups, so that one more group does not weaken the others.

    Example:
        >>> from weightshare.depth.templates import Templates
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
        >>> make_plan(net, Templates(2, init="sparse"), None).apply_(net)
        >>> round(similarity_penalty(net).item(), 4)
        0.6667
    """
    terms = [_penalty(mixture.bank.coefficients) for mixture in expect_mixtures(model).values()]
    device, dtype = terms[0].device, terms[0].dtype
    return torch.stack([term.to(device, dtype) for term in terms]).sum()


@dataclass(frozen=True, eq=False)
class SimilarityPenalty:
    """Add the gradient of `strength·P` to the gradient of the coefficients before every step.

    Args:
        strength: Of `P`, at least 0; each group is pulled by it, whatever the number of its layers.
        schedule: A factor on it, for the number of steps done so far: any function, such as
            `weightshare.values.proximal.Ramp(0, 1, steps=1000)`; `None` is 1 always.

    Raises:
        SpecError: If the strength is out of its range.

    Source: Savarese 2019, "regularizing the LSM". Differs: As for `similarity_penalty`.

    Example:
        >>> from weightshare.depth.lsm import mixtures
        >>> from weightshare.depth.templates import Templates
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> make_plan(net, Templates(2, init="sparse"), None).apply_(net)
        >>> coefficients = next(iter(mixtures(net).values())).bank.coefficients
        >>> _ = coefficients.data.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> _ = SimilarityPenalty(strength=0.1).attach_(optimizer, net)
        >>> coefficients.grad = torch.zeros(2, 2)
        >>> optimizer.step()
        >>> coefficients.data
        tensor([[1.0000, 0.0400],
                [0.6320, 0.7760]])
    """

    strength: float
    schedule: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        expect_number("SimilarityPenalty(strength)", self.strength)
        if self.schedule is not None and not callable(self.schedule):
            raise SpecError(f"SimilarityPenalty(schedule={self.schedule!r}): need a function of the step, or None.")

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where = None) -> "SimilarityHandle":
        """Run before every step of an optimizer from now on.

        Args:
            optimizer: Any of torch, or a wrapper that holds it as `.optimizer`.
            model: The model that it trains, with `Templates` applied. A clip of gradients does not see what is added.
            where: Which layers, by the rule of `plan`; every group that one of them lies in is pulled together as a
                whole. `None` is all groups.

        Returns:
            The handle.

        Raises:
            NoMatch: If no layers of the model mix templates, or the pattern matches none of those that do.
            SpecError: If coefficients are frozen; and as for every `Handle`.
            OptimizerMismatch: As for every `Handle`.
        """
        sites = select([mixture.site for mixture in expect_mixtures(model).values()], where)
        for site in sites:
            if not site.tensor.requires_grad:
                raise SpecError(
                    f"SimilarityPenalty: '{site.path}' is frozen: no step changes it. Leave its layers out of "
                    f"where={describe(where)}, or unfreeze them."
                )
        return SimilarityHandle(optimizer, model, sites, self)


class SimilarityHandle(Handle):
    """What `SimilarityPenalty.attach_` returns."""

    spec: SimilarityPenalty

    @torch.no_grad()
    def before(self) -> None:
        factor = 1.0 if self.spec.schedule is None else float(self.spec.schedule(self.steps))
        for site in self.sites:
            pull = placed_like(site.tensor, penalty_gradient(whole(site.tensor)))
            add_to_gradient(site.tensor, pull, self.spec.strength * factor, self.optimizer)

    def after(self) -> None:
        """Nothing: the step was the optimizer's alone."""


def penalty_gradient(coefficients: Tensor) -> Tensor:
    """The gradient of one group's `mean_{i<j} (1 − |cos(a_i, a_j)|)`, `(layers, templates)`.

        ∂/∂a_i  =  −2 / (L (L − 1) ‖a_i‖)  Σ_{j≠i} sign(c_ij) (u_j − c_ij u_i)        u = a/‖a‖,  c = u uᵀ

    A row of zeros has the gradient 0, and adds nothing to that of others; so has a pair with `c_ij = 0`.

    Example:
        >>> penalty_gradient(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        tensor([[-0.0000, -0.8000],
                [-0.6400,  0.4800]])
    """
    units, lengths = _units(coefficients)
    signs = (units @ units.mH).sign().fill_diagonal_(0.0)
    pull = signs @ units
    across = pull - units * (pull * units).sum(1, keepdim=True)
    return across * (-2.0 / max(1, len(units) * (len(units) - 1))) / lengths


def _penalty(coefficients: Tensor) -> Tensor:
    """`mean_{i<j} (1 − |cos(a_i, a_j)|)` by autograd, real also for complex coefficients."""
    units, _ = _units(coefficients)
    first, second = torch.triu_indices(len(units), len(units), offset=1, device=units.device)
    if not len(first):
        return (units * 0.0).sum().abs()
    return (1.0 - (units @ units.mH).abs()[first, second]).mean()


def _units(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the lengths as a column; rows of zeros stay so, with 1 in place of their length."""
    lengths = torch.linalg.vector_norm(coefficients, dim=1, keepdim=True)
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return coefficients / lengths, lengths
