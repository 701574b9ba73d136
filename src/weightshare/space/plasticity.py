"""Hebbian weight sharing on real layers: equation 4, for every class of positions and every channel of a layer.

The layer below shows a repeated pattern, so that all positions of a class see one `x`. With `B` patterns `X`,
`C = XᵀX/B`, and `D_i = w_i − mean_j w_j`, equation 4 is `D ← D − η(C D + γ(D − D^init))`, while the mean of a class
stays where it is. This is linear in `D` and the same for every neuron, so a whole sleep is one small matrix,

    D = M D^init,        M ← M − η(C M + γ(M − 1)),

which is stepped once per layer and then applied to all its kernels. Noise, of which each position has its own, makes
the mean drift and leaves no such shortcut; then kernels are stepped themselves.

Source: Pogodin 2021, equation 4, sections 4 and 4.1; A.3 for the noise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.hooks import expect_count, expect_number
from weightshare.space.lattice import Lattice, period
from weightshare.space.layer import Axis, LocalLayer

SPREAD = 0x9E3779B97F4A7C15
"""An odd number so large that seeds of the noise of different layers do not meet."""


@dataclass(frozen=True)
class Hebbian:
    """How kernels learn during sleep.

    Args:
        lr: `η`, or a function of the iteration, counted from 0.
        gamma: `γ`, at least 0: how strongly kernels are held where they were when the sleep began.
        iterations: Steps of a sleep, each with new patterns.
        patterns: Patterns of a step, drawn from `N(0, 1)`; their updates are averaged.
        noise: Standard deviation of what each position sees besides its pattern.
        seed: Of patterns and noise. Each sleep and each layer draws its own.

    Raises:
        SpecError: If a value is out of its range.
    """

    lr: float | Callable[[int], float] = 0.1
    gamma: float = 1e-5
    iterations: int = 100
    patterns: int = 128
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.lr):
            expect_number("Hebbian(lr)", self.lr)
        expect_number("Hebbian(gamma)", self.gamma)
        expect_count("Hebbian(iterations)", self.iterations, 1)
        expect_count("Hebbian(patterns)", self.patterns, 1)
        expect_number("Hebbian(noise)", self.noise)
        expect_count("Hebbian(seed)", self.seed, 0)

    def rate(self, iteration: int) -> float:
        """`η` of an iteration.

        Raises:
            SpecError: If a function of yours gives anything but a number of at least 0.
        """
        return expect_number(f"lr({iteration})", self.lr(iteration)) if callable(self.lr) else self.lr


def relax_(
    layer: LocalLayer,
    lattice: Lattice,
    rule: Hebbian,
    strength: float,
    seeds: tuple[int, int],
    only: Sequence[Tensor] | None = None,
) -> None:
    """One sleep of a layer by equation 4.

    Positions that see padding do not see the pattern: they stay as they are. Biases of positions are the weight of one
    more input, which is always 1 and is shown by itself.

    Args:
        layer: Changed in place.
        lattice: Which positions share; its period is that of the pattern.
        rule: How they learn.
        strength: How much of the way the kernels move.
        seeds: Number of the sleep, and of the layer, which patterns depend on besides `rule.seed`.
        only: Which of the layer's weight and bias; `None` is both.

    Raises:
        SpecError: If the lattice has no period that tells the taps apart, or the kernels do not stay finite.
    """
    expect_periodic(layer, lattice)
    labels, inside = lattice.assignment(layer).labels, whole(layer.axes)
    chosen = [*map(id, layer.parameters() if only is None else only)]
    if id(layer.weight) in chosen:
        _relax_kernels(layer, lattice, labels, inside, rule, strength, seeds)
    if id(layer.bias) in chosen and layer.bias_of_kernels():
        _relax_biases(layer, labels, inside, rule, strength)


def _relax_kernels(
    layer: LocalLayer,
    lattice: Lattice,
    labels: Tensor,
    inside: Tensor,
    rule: Hebbian,
    strength: float,
    seeds: tuple[int, int],
) -> None:
    axes, periods = layer.axes, lattice.periods(layer.axes)
    weight = layer.weight.detach()
    _expect_finite(weight, "weight")
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    show = _Patterns(rule, (weight.shape[-3], weight.shape[-2] // prod(a.kernel for a in axes), *periods), kind, seeds)
    flat = weight.flatten(0, len(axes) - 1)
    columns = len(flat) * flat.shape[-1]
    transfer = None
    if not rule.noise and show.inputs == weight.shape[-2] <= columns:
        transfer = _transfer(show, rule)  # a class sees the same numbers as every other one, in another order
    for label in labels[inside].unique().tolist():
        members = ((labels == label) & inside).nonzero()[:, 0]
        if len(members) < 2:
            continue
        order = _order(axes, periods, int(members[0]), show.channels)
        kernels = flat[members.to(flat.device)].to("cpu", kind)  # members, groups, inner, outer
        mean = kernels.mean(0)
        apart = kernels - mean
        if transfer is not None:
            after = mean + torch.einsum("gij,mgjo->mgio", transfer[:, order][:, :, order], apart)
        else:
            after = _stepped(kernels, show, order, rule, label)
        _expect_closer(apart, after - after.mean(0), rule, float(kernels.norm()) * torch.finfo(kind).eps)
        move = after.lerp(kernels, 1 - strength) if strength < 1 else after
        flat[members.to(flat.device)] = move.to(flat)
    torch.autograd.graph.increment_version(layer.weight)


def expect_periodic(layer: LocalLayer, lattice: Lattice) -> tuple[int, ...]:
    """The periods of a lattice whose repeating input shows a kernel of a layer every direction.

    Raises:
        SpecError: If two taps of a kernel would always see the same number, or there is no period.
    """
    if lattice.labels is not None:
        raise SpecError("Hebbian sharing needs an input that repeats, so a Lattice with a period and not with labels.")
    periods = lattice.periods(layer.axes)
    for axis, length in zip(layer.axes, periods, strict=True):
        if len({axis.dilation * tap % length for tap in range(axis.kernel)}) < axis.kernel:
            raise SpecError(
                f"Hebbian sharing: with an input of period {length}, taps of a kernel of {axis.kernel} (dilation "
                f"{axis.dilation}) always see the same number. Need a period of at least "
                f"{period(axis.kernel, axis.dilation)}, or mode='instant'."
            )
    return periods


def whole(axes: Sequence[Axis]) -> Tensor:
    """`(positions)` bool: which positions see no padding, in the order of memory."""
    inside = torch.ones(1, dtype=torch.bool)
    for axis in axes:
        inside = (inside[:, None] & axis.inside().all(1)).flatten()
    return inside


class _Patterns:
    """The repeated patterns of a sleep, the same at every call: one period, `(groups, patterns, inputs)`."""

    def __init__(self, rule: Hebbian, shape: tuple[int, ...], kind: torch.dtype, seeds: tuple[int, int]) -> None:
        self.rule, self.kind = rule, kind
        self.groups, self.channels, self.inputs = shape[0], shape[1], prod(shape[1:])
        self.seed = ((rule.seed * 1_000_003 + seeds[0]) * 10_007 + seeds[1]) % 2**63

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for iteration in range(self.rule.iterations):
            shape = (self.groups, self.rule.patterns, self.inputs)
            yield self.rule.rate(iteration), torch.randn(shape, generator=generator, dtype=self.kind)

    def noise(self, label: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed + (label + 1) * SPREAD) % 2**63)


def _order(axes: Sequence[Axis], periods: Sequence[int], position: int, channels: int) -> Tensor:
    """Which number of a pattern each input of a position's kernel sees: `(taps·in)`; taps first, as kernels lie."""
    at, place = [], position
    for axis in reversed(axes):
        place, index = divmod(place, axis.positions)
        at.insert(0, index)
    taps = torch.zeros(1, dtype=torch.int64)
    for axis, length, index in zip(axes, periods, at, strict=True):
        seen = (axis.stride * index - axis.low + axis.dilation * torch.arange(axis.kernel)) % length
        taps = (taps[:, None] * length + seen).flatten()
    return (taps[:, None] * channels + torch.arange(channels)).flatten()


def _transfer(show: _Patterns, rule: Hebbian) -> Tensor:
    """`M` of a whole sleep, in the order of a pattern: `(groups, inputs, inputs)`."""
    one = torch.eye(show.inputs, dtype=show.kind).expand(show.groups, -1, -1)
    matrix = one.clone()
    for rate, seen in show:
        matrix = matrix - rate * (seen.mT @ (seen @ matrix) / rule.patterns + rule.gamma * (matrix - one))
    return matrix


def _stepped(kernels: Tensor, show: _Patterns, order: Tensor, rule: Hebbian, label: int) -> Tensor:
    """Equation 4 step by step: `(members, groups, inner, outer)` after a sleep."""
    now, noise = kernels, show.noise(label)
    for rate, patterns in show:
        seen = patterns[..., order].expand(len(kernels), -1, -1, -1)  # members, groups, patterns, inner
        if rule.noise:
            seen = seen + rule.noise * torch.randn(seen.shape, generator=noise, dtype=seen.dtype)
        response = seen @ now
        change = seen.mT @ (response - response.mean(0)) / rule.patterns + rule.gamma * (now - kernels)
        now = now - rate * change
    return now


def _relax_biases(layer: LocalLayer, labels: Tensor, inside: Tensor, rule: Hebbian, strength: float) -> None:
    """The same for biases of positions: their input is 1, so their distance from the mean shrinks by a number."""
    bias = layer.biases()
    assert bias is not None
    factor = 1.0
    for iteration in range(rule.iterations):
        factor -= rule.rate(iteration) * (factor + rule.gamma * (factor - 1))
    bias = bias.detach()
    _expect_finite(bias, "bias")
    for label in labels[inside].unique().tolist():
        members = ((labels == label) & inside).nonzero()[:, 0].to(bias.device)
        part = bias[members]
        bias[members] = part.lerp(part.mean(0), strength * (1 - factor))


def _expect_finite(tensor: Tensor, what: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise SpecError(f"a {what} is NaN or infinite: the loss has diverged. Lower the learning rate.")


def _expect_closer(before: Tensor, after: Tensor, rule: Hebbian, rounding: float) -> None:
    """Refuse a learning rate at which kernels move apart, by more than rounding where they are equal already."""
    if not bool(after.isfinite().all()):
        raise SpecError(f"Hebbian sharing did not stay finite (lr={rule.lr!r}). Lower lr.")
    if not rule.noise and float(after.norm()) > float(before.norm()) * (1 + 1e-6) + rounding:
        raise SpecError(
            f"Hebbian sharing moved kernels apart, not together (lr={rule.lr!r}, {rule.patterns} patterns of "
            f"{before.shape[-2]} inputs). Lower lr, or show more patterns."
        )
