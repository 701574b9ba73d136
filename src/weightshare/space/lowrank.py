"""Kernels of low rank across positions: a dial between a convolution and a locally connected layer.

A layer with a kernel `W_p` at each position `p` stores `R` templates and `R` coefficients a position instead:

    W_p = Σ_r A_pr T_r

Rank 1 with equal coefficients is a convolution, rank `min(positions, numbers of a kernel)` any local layer. Where a
`Lattice` says beforehand which positions read one kernel, here every position learns its mixture of a few.

In the grid: items are positions, slots are templates, and the assignment is soft and trained.
Source: Elsayed 2020 (Revisiting Spatial Invariance with Low-Rank Local Connectivity).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from weightshare.decoding import Decoding, mix, refuse_nonfinite, sort_out, wide
from weightshare.errors import SpecError
from weightshare.sharing import Group, LeftOut
from weightshare.space.positions import Mixtures, local_layer, unfit
from weightshare.surgery import edit
from weightshare.surgery.sites import Site


@dataclass(frozen=True, repr=False)
class LowRank(Decoding):
    """The kernels of a local layer are mixtures of a few templates, trained together with their coefficients.

    It fits the weights of local layers; their biases stay as they are. Templates and coefficients start as the nearest
    ones to the kernels that the layer has: those of a layer of that rank or less are kept to rounding. `param_groups`
    gives coefficients no weight decay.

    Args:
        rank: Templates of each layer, at least 1, and few enough to store less than its kernels.

    Raises:
        SpecError: If the rank is no whole number of at least 1.

    Source: Elsayed 2020. Differs: coefficients are not normalised, and one for each position rather than a sum over
    rows and columns; the start is a decomposition of given kernels rather than drawn.

    Example:
        >>> from weightshare.space.local import LocallyConnected2d
        >>> net = LocallyConnected2d(2, 3, 3, input_size=(7, 5), padding=1)
        >>> plan = share_(net, LowRank(rank=2))
        >>> plan.stored_before, plan.stored_after  # 2 · (54 + 35) and the biases
        (1893, 181)
        >>> [name for name, _ in net.named_parameters()]
        ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0.coefficients']
    """

    rank: int

    @property
    def kind(self) -> type[Group]:
        """Of all its groups."""
        return Mixtures

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise SpecError(f"LowRank(rank={self.rank!r}): need a whole number of at least 1.")

    def group(
        self, model_sites: Sequence[Site], chosen: Sequence[Site], explicit: bool
    ) -> tuple[list[Mixtures], list[LeftOut]]:
        """Make each weight a group of its own; see `Spec.group`.

        Raises:
            AlreadyShared: If the pattern names a weight that several paths read.
            SpecError: If the pattern names one that would store no less.
        """
        return sort_out(
            *(chosen, explicit, lambda site: unfit(site, ("weight",)), self._planned),
            verb="make mixtures of",
            advice="Give a lower rank, or leave it out of the pattern.",
        )

    def find(self, model: nn.Module, group: Mixtures) -> tuple[Tensor, Tensor]:
        """Templates and coefficients nearest to the kernels of a layer."""
        local_layer(model, group.name)
        weight = edit.parameter_at(model, group.name).detach()
        refuse_nonfinite(group.name, weight)
        kernels = weight.flatten(0, len(group.positions) - 1)
        coefficients, templates = factors(kernels.flatten(1), group.slots)
        return templates.view(-1, *group.kernel).to(weight.dtype), coefficients.to(weight.dtype)

    def decoder(self, group: Mixtures, second: Tensor) -> nn.Module:
        """What mixes templates by coefficients."""
        return Mixer(second, group.positions)

    def _planned(self, site: Site) -> tuple[Mixtures, str]:
        group = Mixtures.of(site, self.rank)
        if group.stored_after < group.stored_before:
            return group, ""
        return group, (
            f"rank {self.rank} would save nothing: {group.stored_after:,} numbers of {self.rank} templates and their "
            f"coefficients instead of {group.stored_before:,}"
        )


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product `A·T` of a rank, by a truncated singular value decomposition.

    Coefficients have a mean square of 1 in each column and a mean of at least 0, so a template is as large as the
    kernels are: of equal rows the first is that row, with coefficients 1, and the others are 0.

    Args:
        matrix: `(positions, numbers)`.
        rank: Columns of `A`.

    Returns:
        `A`, `(positions, rank)`, and `T`, `(rank, numbers)`, in float32 or wider.
    """
    numbers = wide(matrix)
    left, sizes, right = torch.linalg.svd(numbers, full_matrices=False)
    scale = len(numbers) ** 0.5
    found = min(rank, len(sizes))
    coefficients = numbers.new_zeros(len(numbers), rank)
    templates = numbers.new_zeros(rank, numbers.shape[1])
    sign = left[:, :found].sum(0).sign()
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)
    coefficients[:, :found] = left[:, :found] * sign * scale
    templates[:found] = right[:found] * (sign * sizes[:found] / scale)[:, None]
    return coefficients, templates


class Mixer(nn.Module):
    """`T ↦ A·T` with trained coefficients `A`: what torch's parametrization calls at every read of the weight.

    Args:
        coefficients: `(positions, rank)`.
        positions: How many there are along each axis.
    """

    def __init__(self, coefficients: Tensor, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.positions = positions

    def forward(self, templates: Tensor) -> Tensor:
        """The weight."""
        return mix(self.coefficients, templates).view(*self.positions, *templates.shape[1:])

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The nearest templates for the coefficients that there are, as torch asks for on `layer.weight = weight`."""
        kernel = weight.shape[len(self.positions) :]
        flat = wide(weight.detach()).reshape(prod(self.positions), -1)
        found = torch.linalg.pinv(wide(self.coefficients.detach())) @ flat
        return found.view(-1, *kernel).to(weight.dtype)

    def no_weight_decay(self) -> set[str]:
        """What `param_groups` gives no decay, as timm's models say it."""
        return {"coefficients"}

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"positions {self.positions}, {self.coefficients.shape[1]} templates"
