"""The door of the theory of weight sharing: which weights, inputs and levels may come in.

Everything behind it works on `(..., neurons, inputs)`: the leading dimensions count problems that are simulated at
once, and every other argument is broadcast to them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from weightshare.errors import SpecError


def weights(w: object, what: str) -> Tensor:
    """`w`, if it is `(..., neurons, inputs)` of finite floats with at least one of each; `SpecError` otherwise."""
    return _rows(w, what, "weights (..., neurons, inputs)")


def patterns(inputs: object, what: str, like: Tensor) -> Tensor:
    """`inputs`, if it is `(..., patterns, inputs)` for weights `like`; `SpecError` otherwise."""
    x = _rows(inputs, what, "inputs (..., patterns, inputs)")
    if x.shape[-1] != like.shape[-1] or x.dtype != like.dtype or x.device != like.device:
        raise SpecError(
            f"{what}: inputs {tuple(x.shape)} of {x.dtype} on {x.device} do not fit weights {tuple(like.shape)} of "
            f"{like.dtype} on {like.device}. Each input needs one number for each weight of a neuron, of its dtype."
        )
    return x


def pair(w: object, w_init: object, what: str) -> tuple[Tensor, Tensor]:
    """Weights and those at the start, if they are of one dtype and of the same last two dimensions."""
    now, start = weights(w, what), weights(w_init, what)
    if now.shape[-2:] != start.shape[-2:] or now.dtype != start.dtype or now.device != start.device:
        raise SpecError(
            f"{what}: weights {tuple(now.shape)} of {now.dtype} do not fit initial ones {tuple(start.shape)} of "
            f"{start.dtype}: they are the same neurons, at two times."
        )
    return now, start


def level(value: object, name: str, like: Tensor, infinite: bool = False) -> Tensor:
    """A number, or one for each problem, of at least 0, in the dtype and on the device of `like`.

    `infinite` allows infinity; NaN is always refused.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number and not (isinstance(value, Tensor) and (value.is_floating_point() or not value.numel())):
        raise SpecError(f"{name}={value!r}: need a number, or a float tensor with one for each problem.")
    levels = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if not bool(((levels >= 0) & (levels.isfinite() | infinite)).all()):
        raise SpecError(f"{name}={value!r}: need {'numbers' if infinite else 'finite numbers'} of at least 0.")
    return levels


def leak(alpha: object, like: Tensor) -> Tensor:
    """How much of the mean response inhibition leaves: `1/(1 + α)`; 0 for `None` and infinity."""
    return like.new_zeros(()) if alpha is None else 1 / (1 + level(alpha, "alpha", like, infinite=True))


def lead(what: str, *shapes: Sequence[int]) -> torch.Size:
    """The shape of all problems: the leading dimensions of every argument, broadcast together."""
    try:
        return torch.broadcast_shapes(*(tuple(shape) for shape in shapes))
    except RuntimeError as error:
        raise SpecError(
            f"{what}: the leading dimensions {', '.join(str(tuple(shape)) for shape in shapes)} do not go together. "
            "They count problems, and have to be equal, 1 or missing."
        ) from error


def moments(at: Sequence[int], last: int, what: str) -> list[int]:
    """The iterations after which something is recorded: whole numbers from 0 to `last`, ascending."""
    times = list(at)
    if any(isinstance(t, bool) or not isinstance(t, int) or not 0 <= t <= last for t in times):
        raise SpecError(f"{what}: at={times!r} holds iterations, whole numbers from 0 to {last}.")
    if times != sorted(set(times)):
        raise SpecError(f"{what}: at={times!r} has to ascend, each iteration once.")
    return times


def _rows(value: object, what: str, need: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise SpecError(f"{what} needs {need} as a tensor of float32 or float64, got {got}. Convert it first.")
    if value.ndim < 2 or not min(value.shape[-2:]):
        raise SpecError(f"{what} needs {need}, at least one of each, got shape {tuple(value.shape)}.")
    if not bool(value.isfinite().all()):
        raise SpecError(f"{what}: a number of {need} is NaN or infinite.")
    return value
