"""How far the scalars of a model's weights are shared: distinct values, zeros, the pairwise penalty.

In the grid: the measure of the values axis. It looks at what a forward pass reads, so a weight that a `Codebook` makes
is measured as the weight that it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from weightshare._typing import Where
from weightshare.decoding import Decoded
from weightshare.errors import NoMatch
from weightshare.planning import applied_plans
from weightshare.surgery.count import distinct
from weightshare.surgery.sites import describe, select, sites, unwrapped
from weightshare.values.choice import is_layer
from weightshare.values.pairwise import pairwise_penalty


@dataclass(frozen=True)
class ValueSharing:
    """The scalars of one weight.

    Args:
        path: Of the weight.
        numel: How many there are.
        distinct: How many differ; `0.0` and `-0.0` are one value.
        zeros: The part of them that is exactly zero, from 0 to 1.
        penalty: `R(w) = 1/(d − 1) Σ_{i>j} |w_i − w_j|`; 0 where all are equal.
    """

    path: str
    numel: int
    distinct: int
    zeros: float
    penalty: float


def value_sharing(model: nn.Module, where: Where = None) -> list[ValueSharing]:
    """Measure how far the scalars of each weight are shared.

    Args:
        model: Any module, shared or not. It is not changed.
        where: As for `plan`, on real floating-point parameters; `None` for those that `Codebook` takes without a
            pattern.

    Returns:
        One row for each weight, each tensor once, in the order of `named_parameters()`.

    Raises:
        NoMatch: If the pattern matches nothing, or nothing that can be measured.
        SpecError: If a weight has no numbers (meta), or holds NaN or infinity.

    Source: Shakerinava 2023: distinct values, zeros and R are what its experiments measure.
    Differs: nothing.

    Example:
        >>> net = nn.Linear(5, 1)
        >>> _ = net.weight.data.copy_(torch.tensor([[0.0, 1.0, -0.0, 1.0, 2.0]]))
        >>> value_sharing(net)
        [ValueSharing(path='weight', numel=5, distinct=3, zeros=0.4, penalty=2.5)]
    """
    rows = [_row(path, tensor) for path, tensor in _weights(unwrapped(model), where)]
    if not rows:
        raise NoMatch(f"Nothing that where={describe(where)} matches is a weight of real numbers.")
    return rows


def _weights(model: nn.Module, where: Where) -> Iterator[tuple[str, Tensor]]:
    """Path and numbers of every weight that is meant, made from what is stored for it where something is."""
    groups = [group.under(at) for at, plan in applied_plans(model) for group in plan.groups]
    made = {group.keys[0]: group.name for group in groups if isinstance(group, Decoded)}
    mixing = {group.keys[1] for group in groups if isinstance(group, Decoded)}
    for site in select(sites(model), where):
        if site.path in mixing:
            continue
        if site.path in made:
            parent, _, name = made[site.path].rpartition(".")
            yield made[site.path], getattr(model.get_submodule(parent), name).detach()
        elif site.tensor.is_floating_point() and (where is not None or is_layer(site)):
            yield site.path, site.tensor.detach()


def _row(path: str, w: Tensor) -> ValueSharing:
    penalty = float(pairwise_penalty(w))  # the first, since it says what is wrong with a weight
    zeros = int((w == 0).sum()) / max(1, w.numel())
    return ValueSharing(path, w.numel(), distinct(w), zeros, penalty)
