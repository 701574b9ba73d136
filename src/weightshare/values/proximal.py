"""Weight-sharing regularisation in anyone's training loop: the proximal map of `R` after every step of an optimizer.

    handle = Proximal(strength=1e-3).attach_(optimizer, model, where="fc1")
    ...                                  # train as ever
    clusters = handle.finish()           # the exact map once more: weights of a cluster are equal to the bit

After a step with learning rate `lr`, `w ← prox_{lr·strength·R}(w)`: proximal gradient descent on `loss + strength·R`.
The metric of the map is Euclidean whatever the optimizer is. With SGD that is the proximal gradient method; with Adam,
whose steps have a scale of their own for each weight, it is the decoupled form, as AdamW's weight decay is.

With `l1`, a soft threshold follows. `prox_{ℓ1} ∘ prox_R` is the exact map of the sum: `R`'s map keeps the order and
merges only, the soft threshold keeps order and equality, and so what was a subgradient of `R` still is one.

**Rewinding** lets clusters merge as above, but then each moves only `1 − ρ` of its way from where its members' mean
was, so that weights are shared without being shrunk; what the threshold put to 0 stays at 0. It does not minimise
anything, and whether two clusters meet is not a continuous question, so the sort-free form has a wider bound.

In the grid: the drive towards sharing across values. Source: Shakerinava 2023, proximal gradient and rewinding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softshrink

from weightshare._typing import Where
from weightshare.errors import SpecError
from weightshare.hooks import Handle, described, expect_count, expect_number, is_count
from weightshare.surgery.shards import expect_one_cut, keep_part_, local_part, whole
from weightshare.values import check
from weightshare.values.binned import NoBins, prox_pairwise_binned
from weightshare.values.choice import trained_weights
from weightshare.values.pairwise import pairwise_penalty
from weightshare.values.particles import Granularity, Particles, expect_granularity
from weightshare.values.prox import prox_clusters, prox_pairwise, rewound

SORT_FREE_FROM = 1 << 17
"""Weights from which the sort-free map is the faster one: below, its bins cost more than sorting."""


@dataclass(frozen=True)
class Ramp:
    """A number that goes from one value to another in equal steps, and stays there.

    Args:
        start: Before the first step, 0 to 1.
        stop: From step `steps` on, 0 to 1.
        steps: Steps of the optimizer, at least 1.

    Raises:
        SpecError: If a value is out of its range.

    Example:
        >>> ramp = Ramp(start=0.0, stop=0.5, steps=10)
        >>> ramp(0), ramp(5), ramp(99)
        (0.0, 0.25, 0.5)
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        expect_number("Ramp(start)", self.start, 0, 1)
        expect_number("Ramp(stop)", self.stop, 0, 1)
        expect_count("Ramp(steps)", self.steps, 1)

    def __call__(self, step: int) -> float:
        return self.start + (self.stop - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True, eq=False)
class Proximal:
    """Pull the weights of a layer together after every step of an optimizer.

    Weights that had no gradient in a step are moved as well: the penalty pulls whether or not the loss does. Frozen
    ones stay.

    Args:
        strength: `α` of `loss + α R`, at least 0. The map after a step is that of `lr·α`.
        l1: Strength of `‖w‖₁`, at least 0, applied to the merged weights.
        rewind: `ρ` from 0 (none) to 1 (merge without moving), or a schedule: `Ramp`, or any function of the number of
            steps.
        every: Apply the map after every so many steps, with the sum of their `lr·α`.
        granularity: Which weights of a parameter may meet: `"layer"` (all), `"row"` (those of one output unit),
            `"filter"` (those of one output channel of a convolution), `"tap"` (those at one offset of its kernel), or
            a list of index tensors into the flattened parameter. Biases are problems of their own.
        exact_every: The sort-free map serves large layers where there is one; after every so many steps the exact one
            does. 1 is always, 0 leaves it to `finish()`.
        l1_per_step: Whether the threshold is `lr·l1`, as proximal gradient wants it; `False` takes `l1` itself after
            every step, as the paper's experiments do.

    Raises:
        SpecError: If a value is out of its range.

    Source: Shakerinava 2023, training with the proximal map; rewinding; the ℓ1 term.
    Differs: Sort-free on large layers, within the bound of `prox_pairwise_binned`; the paper sorts at every step.

    Example:
        >>> net = nn.Linear(5, 7)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> handle = Proximal(strength=100.0).attach_(optimizer, net)
        >>> net(torch.ones(2, 5)).sum().backward()
        >>> optimizer.step()
        >>> handle.measure()["weight"]["distinct"]
        1
    """

    strength: float
    l1: float = 0.0
    rewind: float | Callable[[int], float] = 0.0
    every: int = 1
    granularity: Granularity = "layer"
    exact_every: int = 0
    l1_per_step: bool = True

    def __post_init__(self) -> None:
        expect_number("Proximal(strength)", self.strength)
        expect_number("Proximal(l1)", self.l1)
        if not callable(self.rewind):
            expect_number("Proximal(rewind)", self.rewind, 0, 1)
        expect_count("Proximal(every)", self.every, 1)
        expect_count("Proximal(exact_every)", self.exact_every, 0)
        expect_granularity(self.granularity)

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where = None) -> "ProximalHandle":
        """Run after every step of an optimizer from now on.

        Args:
            optimizer: Any of torch, with any learning rates and schedules, or a wrapper that holds it as `.optimizer`.
            model: The model that it trains. A weight that several layers read is moved once.
            where: Which parameters, by the rule of `plan`; `None` is those that `Codebook` takes.
                For other strengths on other layers attach a second one.

        Returns:
            The handle.

        Raises:
            OptimizerMismatch: If no group owns a parameter, or this kind of optimizer cannot be served.
            SpecError: If a parameter is complex, sparse, of half precision, frozen, has a `Proximal` already, or does
                not fit the granularity.
            NoMatch: If the pattern matches nothing.
        """
        return ProximalHandle(optimizer, model, where, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proximal) and described(self) == described(other)

    def __hash__(self) -> int:
        return hash(described(self))

    def rewind_at(self, step: int) -> float:
        """`ρ` after so many steps.

        Raises:
            SpecError: If a schedule of yours gives anything but a number from 0 to 1.
        """
        return expect_number(f"rewind({step})", self.rewind(step), 0, 1) if callable(self.rewind) else self.rewind


class ProximalHandle(Handle):
    """What `Proximal.attach_` returns.

    Attributes:
        bounds: After each application, by path: how far a weight is from the exact map at most; 0 where it was exact.
    """

    spec: Proximal

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where, spec: Proximal) -> None:
        super().__init__(optimizer, model, trained_weights(model, where, "Proximal"), spec)
        try:
            if not isinstance(spec.granularity, str) and len(self.sites) > 1:
                raise SpecError(
                    f"granularity: index tensors are for one parameter, where= matches {len(self.sites)}: "
                    f"{', '.join(self.paths[:3])}, ... Attach once for each."
                )
            for site in self.sites:
                expect_one_cut(site.path, site.tensor)
            self._particles = [Particles(site.path, site.shape, site.holder, spec.granularity) for site in self.sites]
        except SpecError:
            self.remove()
            raise
        self._waiting = [0.0] * len(self.sites)  # Σ lr since the map was last applied
        self._waited = 0
        self._last = [0.0] * len(self.sites)  # Σ lr of the last application
        self.bounds = dict.fromkeys(self.paths, 0.0)

    def after(self) -> None:
        self._waiting = [sum(pair) for pair in zip(self._waiting, self.lrs, strict=True)]
        self._waited += 1
        if self.steps % self.spec.every == 0:
            exact = self.spec.exact_every > 0 and self.steps % self.spec.exact_every < self.spec.every
            self._apply(exact)

    def now(self) -> None:
        """Apply the exact map for the steps since it was last applied, without waiting for `every`."""
        if self._waited:
            self.expect_held()
            self._apply(exact=True)

    def finish(self, lr: float | None = None) -> dict[str, Tensor]:
        """Apply the exact map once more: at the end of training, before folding or counting.

        Args:
            lr: Learning rate to apply it with, above 0. By default for the steps that wait; if none does, for as much
                as the last time; if there was none, for the learning rate of now.

        Returns:
            For each path the cluster of each weight: int64 of the parameter's shape, from 0, counted over its problems;
            -1 for weights that no index tensor names. Weights of one cluster are equal to the bit.

        Raises:
            ModelChanged: If the model reads other parameters now.
            SpecError: If a weight is NaN or infinite, or the learning rate out of its range.
        """
        self.expect_held()
        if lr is not None:
            self._waiting = [expect_number("finish(lr)", lr, low=1e-300)] * len(self.sites)
        elif not self._waited:
            self._waiting = [last or now for last, now in zip(self._last, self.lrs, strict=True)]
        return self._apply(exact=True, label=True)

    def measure(self) -> dict[str, dict[str, float]]:
        """Count what is shared now, and change nothing.

        Returns:
            For each path: `weights`, how many there are; `distinct`, how many clusters, summed over problems, zeros
            being one; `zero`, how many weights are 0; `penalty`, `R`, summed over problems. Where the sort-free map was
            the last one, clusters and zeros are those that one more exact map like it would leave.
        """
        self.expect_held()
        rows = {}
        for site, particles, last in zip(self.sites, self._particles, self._last, strict=True):
            flat = particles.read(whole(site.tensor))
            values, clusters = self._moved(flat, particles, last if self.bounds[site.path] else None, label=True)
            nonzero = clusters[values != 0].unique().numel()
            rows[site.path] = {
                "weights": flat.numel(),
                "distinct": nonzero + int(bool((values == 0).any())),
                "zero": int((values == 0).sum()),
                "penalty": _penalty(flat, particles),
            }
        return rows

    def state_dict(self) -> dict[str, Any]:
        counters = {"waiting": list(self._waiting), "waited": self._waited, "last": list(self._last)}
        return super().state_dict() | counters

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows = [state.get("waiting"), state.get("last")]
        for row in rows:
            if not isinstance(row, list) or len(row) != len(self.sites):
                raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
            if not all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in row):
                raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
        if not is_count(state.get("waited")):
            raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
        super().load_state_dict(state)
        self._waiting, self._last = [[float(n) for n in row] for row in rows if isinstance(row, list)]
        self._waited = state["waited"]

    def _apply(self, exact: bool, label: bool = False) -> dict[str, Tensor]:
        clusters = {}
        for number, (site, particles) in enumerate(zip(self.sites, self._particles, strict=True)):
            if not site.tensor.requires_grad:
                continue  # frozen since: it stays as it is
            length = self._waiting[number]
            try:
                clusters[site.path] = self._step(site.tensor, particles, site.path, length, exact, label)
            except SpecError as error:
                raise SpecError(f"Proximal on '{site.path}' after step {self.steps}: {error}") from error
            # One by one, so that an error at the next weight does not move this one a second time.
            self._last[number], self._waiting[number] = length, 0.0
        self._waited = 0
        return clusters

    def _step(
        self, parameter: Tensor, particles: Particles, path: str, length: float, exact: bool, label: bool
    ) -> Tensor:
        part, group = local_part(parameter)
        part = part.permute(sorted(range(part.ndim), key=part.stride, reverse=True))  # channels last lie so, too
        nothing_meets = not self.spec.strength and not self.spec.rewind and isinstance(self.spec.granularity, str)
        if nothing_meets and not label:
            return _thresholded(part, self._threshold(length))
        sort_free = particles.whole and not exact and not label
        if sort_free and part.is_contiguous() and (group is not None or part.numel() >= SORT_FREE_FROM):
            strength, l1, rewind = self.spec.strength * length, self._threshold(length), self.spec.rewind_at(self.steps)
            try:
                _, self.bounds[path] = prox_pairwise_binned(part, strength, l1=l1, rewind=rewind, group=group, out=part)
            except NoBins:
                pass  # so small or so large a range that only the exact map serves it
            else:
                torch.autograd.graph.increment_version(parameter)
                return part
        self.bounds[path] = 0.0
        every = whole(parameter)
        flat = particles.read(every)
        values, labels = self._moved(flat, particles, length, label)
        particles.write(every, values)
        keep_part_(parameter, every)
        return particles.labels(labels) if label else labels

    def _moved(self, flat: Tensor, particles: Particles, length: float | None, label: bool) -> tuple[Tensor, Tensor]:
        """Where particles go, exactly; and their clusters if asked for, those at 0 being one. `None` moves nothing."""
        rewind = self.spec.rewind_at(self.steps)
        step, threshold = (0.0, 0.0) if length is None else (self.spec.strength * length, self._threshold(length))
        parts, dims = particles.split(flat)
        if not label and not rewind:
            merged = torch.cat([part.reshape(-1) for part in prox_pairwise(parts, step, batch_dims=dims)])
            return (softshrink(merged, threshold) if threshold else merged), flat
        moved, found = prox_clusters(parts, step, batch_dims=dims)
        values = torch.cat([part.reshape(-1) for part in moved])
        clusters = torch.cat([part.reshape(-1) for part in found])
        soft = softshrink(values, threshold) if threshold else values
        if rewind:
            back = rewound(flat, soft, clusters, rewind)
            soft = torch.where(soft == 0, 0.0, back) if threshold else back
        if label:  # one cluster at 0 in each problem
            problem = torch.repeat_interleave(torch.arange(particles.problems), particles.bounds.diff()).to(
                clusters.device
            )
            clusters = torch.where(soft == 0, -1 - problem, clusters).unique(return_inverse=True)[1]
        return soft, clusters

    def _threshold(self, length: float) -> float:
        return self.spec.l1 * (length if self.spec.l1_per_step else max(1, self._waited))


def _thresholded(part: Tensor, threshold: float) -> Tensor:
    """The soft threshold in place, of weights that are finite."""
    if not bool(part.isfinite().all()):
        raise SpecError(check.NOT_FINITE)
    return part.copy_(softshrink(part, threshold)) if threshold else part


def _penalty(flat: Tensor, particles: Particles) -> float:
    parts, dims = particles.split(flat)
    return sum(float(pairwise_penalty(part, batch_dims=dims).double().sum()) for part in parts)
