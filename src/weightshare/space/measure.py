"""How far the neurons of a layer are from sharing one kernel: the signal-to-noise ratio of their weights.

In the grid: the measure of the space axis. Infinite where neurons share to the bit, about 1 for `N(1, 1)` weights.
"""

import math
from typing import NamedTuple

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer

TINY = 1e-300


def snr(weights: Float[Tensor, "... neurons inputs"]) -> Float[Tensor, "..."]:
    """Compare the weights' mean over neurons with their spread, input by input.

    `SNR = 1/k² Σ_j (mean_i w_ij)² / mean_i (w_ij − mean_i' w_i'j)²`, where `j` runs over the `k²` inputs of a neuron.

    Args:
        weights: `(..., neurons, inputs)` of a floating-point type; at least one of each. Leading dimensions count
            layers, channels or runs.

    Returns:
        A float64 number of at least 0 for each of the leading dimensions, computed in float64. Exactly infinite where
        one input has the same weight, to the bit, in all neurons: also where that weight is 0 (0/0 counts as shared),
        and for a single neuron. NaN where a weight is NaN or infinite.

    Raises:
        SpecError: If `weights` is no float tensor of two or more dimensions, or empty in one of the last two.

    Source: Pogodin 2021, eq. 6.
    Differs: nothing; 0/0 is left open there.

    Example:
        >>> snr(torch.tensor([[1.0, 4.0], [3.0, 8.0]]))  # means 2 and 6, variances 1 and 4
        tensor(6.5000, dtype=torch.float64)
        >>> snr(torch.tensor([[[0.1], [0.1]], [[0.1], [-0.1]]]))
        tensor([inf, 0.], dtype=torch.float64)
    """
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise SpecError(f"snr needs a tensor of floating-point numbers, got {got}.")
    if weights.ndim < 2 or not min(weights.shape[-2:]):
        raise SpecError(f"snr needs weights (..., neurons, inputs), at least one of each, got {tuple(weights.shape)}.")
    w = weights.double()
    # From the first neuron on: the mean of equal numbers may round to another one, their differences are 0.
    away = w - w[..., :1, :]
    shift = away.mean(-2, keepdim=True)
    mean = (w[..., :1, :] + shift).squeeze(-2)
    variance = (away - shift).square().mean(-2)
    shared = variance == 0
    ratio = mean.square() / variance.masked_fill(shared, 1.0)
    return ratio.masked_fill(shared, torch.inf).mean(-1)


class Sharing(NamedTuple):
    """How far a local layer is from sharing: `within` the classes of a lattice, and over `all` its positions.

    Each is a signal-to-noise ratio, the mean over channels (and classes); infinite where kernels are equal to the bit.
    Classes of one position say nothing and are not counted. By equation 6 one number of a kernel that is equal in all
    neurons is enough for infinity; `plan_fold` says how far whole kernels are.
    """

    within: float
    all: float

    @property
    def noise(self) -> tuple[float, float]:
        """Both upside down, noise over signal: 0 where kernels are equal, and finite where they have no mean."""
        return 1 / max(self.within, TINY), 1 / max(self.all, TINY)


def space_sharing(layer: LocalLayer, lattice: Lattice | None = None) -> Sharing:
    """Measure the kernels of a layer.

    Args:
        layer: Any local layer. It is not changed.
        lattice: The classes; `None` is the paper's.

    Returns:
        Equation 6 for each channel, averaged: over all positions, and over the positions of each class.

    Source: Pogodin 2021, eq. 6; the classes are those of section 4.1.

    Example:
        >>> from weightshare.space.local import LocallyConnected1d
        >>> layer = LocallyConnected1d(1, 2, 3, input_size=8)
        >>> layer.reset_parameters(eps=0.0)
        >>> space_sharing(layer)
        Sharing(within=inf, all=inf)
    """
    kernels = layer.kernels().detach().permute(1, 3, 0, 2)  # groups, outer, positions, inner
    readers = (lattice or Lattice()).assignment(layer).readers
    within = [snr(kernels[:, :, list(members)]).mean() for members in readers if len(members) > 1]
    inside = float(torch.stack(within).mean()) if within else math.inf
    return Sharing(inside, float(snr(kernels).mean()))
