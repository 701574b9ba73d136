"""The door of the values axis: which tensors and numbers may come in, and which independent problems they hold.

Everything behind it works on one flat tensor of float32 or float64 and on the `bounds` of its segments. A segment is a
problem of its own: its particles meet no others.
"""

from collections.abc import Sequence
import math

import torch
from torch import Tensor

from weightshare.errors import SpecError

Weights = Tensor | Sequence[Tensor]
"""One tensor, or several whose numbers do not meet."""

NOT_FINITE = "a weight is NaN or infinite. Find out why before you share; nothing was changed."

_WIDTHS = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def width(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which places of this dtype are computed."""
    return _WIDTHS[dtype]


def tensor(w: object, what: str) -> Tensor:
    """`w`, if it is a dense tensor of real floating-point numbers with values; `SpecError` otherwise."""
    if not isinstance(w, Tensor):
        raise SpecError(f"{what} needs a tensor, got {type(w).__name__}.")
    if w.dtype not in _WIDTHS:
        raise SpecError(
            f"{what} needs float16, bfloat16, float32 or float64, got {w.dtype}. Convert the tensor first; the parts "
            "of a complex one are two groups."
        )
    if w.layout != torch.strided:
        raise SpecError(f"{what} needs a dense tensor, got layout {w.layout}: take its .values(), or .to_dense().")
    if w.device.type == "meta":
        raise SpecError(f"{what} needs numbers, got a tensor on 'meta', which has none.")
    return w


def strength(step: object, what: str) -> float:
    """`step` as a float, finite and not negative; `SpecError` otherwise."""
    try:
        number = float(step)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SpecError(f"{what} needs a finite number of at least 0, got {step!r}.") from error
    if not math.isfinite(number) or number < 0:
        raise SpecError(f"{what} needs a finite number of at least 0, got {number}.")
    return number


def bounds(w: Tensor, batch_dims: int, what: str) -> Tensor:
    """The bounds of the problems in the flattened `w`: (problems + 1), int64, on the processor.

    The first `batch_dims` dimensions count independent problems; the others, flattened, are the particles of each.
    """
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or not 0 <= batch_dims <= w.ndim:
        raise SpecError(
            f"{what}: batch_dims is how many leading dimensions count problems, from 0 to {w.ndim} for shape "
            f"{tuple(w.shape)}, got {batch_dims!r}."
        )
    return evenly(math.prod(w.shape[:batch_dims]), math.prod(w.shape[batch_dims:]))


def evenly(problems: int, particles: int) -> Tensor:
    """Bounds of problems of one size."""
    return torch.arange(problems + 1) * particles


def masses(weights: Tensor | None, w: Tensor, what: str) -> Tensor | None:
    """The particles' masses as float64, broadcast to `w`; `SpecError` if one is not finite and positive."""
    if weights is None:
        return None
    weights = tensor(weights.double() if isinstance(weights, Tensor) and not weights.is_complex() else weights, what)
    try:
        weights = weights.detach().to(w.device).broadcast_to(w.shape)
    except RuntimeError as error:
        raise SpecError(f"{what}: masses of shape {tuple(weights.shape)} do not fit {tuple(w.shape)}.") from error
    if not bool((weights.isfinite() & (weights > 0)).all()):
        raise SpecError(f"{what}: masses have to be finite and positive; leave particles of mass 0 out.")
    return weights


def heavy_enough(masses: Tensor | None, bounds: Tensor, what: str) -> None:
    """Refuse problems of two or more particles whose masses do not add up to more than 1: 1/(mass − 1) is no pace."""
    if masses is None or not masses.numel():
        return
    flat = masses.reshape(-1)
    index = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff()).to(flat.device)
    total = flat.new_zeros(len(bounds) - 1).index_add_(0, index, flat)
    light = total[(bounds.diff() > 1).to(total.device)] <= 1
    if bool(light.any()):
        raise SpecError(f"{what}: the masses of one problem have to add up to more than 1: they count weights.")


def same_shape(w: Tensor, other: Tensor, what: str) -> None:
    """Refuse two tensors of different shapes."""
    if w.shape != other.shape:
        raise SpecError(f"{what}: two tensors of one shape are needed, got {tuple(w.shape)} and {tuple(other.shape)}.")


def finite(places: Tensor, bounds: Tensor, what: str) -> None:
    """Refuse NaN and infinity; `places` are sorted within each segment, where these come first or last."""
    if len(bounds) == 2 and places.numel():  # one problem, as most are: two numbers cost less than tensors of them
        good = math.isfinite(places[0]) and math.isfinite(places[-1])
    else:
        full = bounds.diff() > 0
        ends = torch.cat([bounds[:-1][full], bounds[1:][full] - 1]).to(places.device)
        good = bool(places[ends].isfinite().all())
    if not good:
        raise SpecError(f"{what}: {NOT_FINITE}")


def all_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity among values in any order."""
    if not bool(values.isfinite().all()):
        raise SpecError(f"{what}: {NOT_FINITE}")
