"""How layers become alike in training: the coefficients at some steps, kept by a hook that costs nothing one sees.

    handle = Record().attach_(optimizer, model)
    ...                                             # train as ever
    handle.history.similarity(-1)                   # layer similarity matrices, now

Coefficients are a few hundred numbers, so all of them are kept and matrices made of them when somebody looks: signed or
not, then and later. They are copied on the device that they lie on, and nothing waits for it.

In the grid: the measure of soft sharing across depth, over time. Source: Savarese 2019, evolution of sharing patterns.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weightshare.depth.lsm import expect_mixtures, similarity_matrix
from weightshare.depth.measure import Similarity
from weightshare.errors import SpecError
from weightshare.hooks import Handle, expect_count, is_count
from weightshare.surgery.shards import whole


@dataclass(frozen=True, eq=False)
class Evolution:
    """The coefficients of every group at some steps of a training.

    Args:
        steps: Of the optimizer, done when they were kept, rising; 0 is before the first.
        layers: For each group the paths of its layers' weights.
        coefficients: For each group `(moments, layers, templates)`, on the CPU.
    """

    steps: tuple[int, ...]
    layers: dict[str, tuple[str, ...]]
    coefficients: dict[str, Tensor]

    def similarity(self, moment: int, signed: bool = False) -> dict[str, Similarity]:
        """The layer similarity matrix of every group at one of `steps`, by its place there; −1 is the last.

        Example:
            >>> rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [-2.0, -2.0]]])
            >>> history = Evolution((0, 9), {"blocks": ("0.weight", "1.weight")}, {"blocks": rows})
            >>> [round(history.similarity(at)["blocks"].values[0, 1].item(), 6) for at in (0, -1)]
            [0.0, 1.0]
        """
        measure = f"{'cos' if signed else '|cos|'} of coefficients"
        return {
            name: Similarity(measure, layers, layers, similarity_matrix(self.coefficients[name][moment], signed))
            for name, layers in self.layers.items()
        }

    def nearest(self, fraction: float) -> int:
        """Which moment lies nearest to a fraction of all steps, 0 to 1; the later one of two.

        Raises:
            SpecError: If the fraction is out of its range.

        Example:
            >>> Evolution((0, 2, 10, 100), {}, {}).nearest(0.02)
            1
        """
        if not 0 <= fraction <= 1:
            raise SpecError(f"nearest({fraction!r}): need a fraction of the training, 0 to 1.")
        wanted = fraction * self.steps[-1]
        return min(range(len(self.steps)), key=lambda at: (abs(self.steps[at] - wanted), -at))


@dataclass(frozen=True)
class Record:
    """Keep copies of the coefficients of all layers that mix templates, at some steps.

    Args:
        every: After every so many steps; or
        at: after these numbers of steps. With neither: after 1, 2, 4, 8, 16, ... steps. The start is always kept.

    Raises:
        SpecError: If a number is out of its range, or both are given.

    Source: Savarese 2019, evolution of sharing patterns.

    Example:
        >>> from weightshare.depth.templates import Templates
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> make_plan(net, Templates(2), None).apply_(net)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> handle = Record().attach_(optimizer, net)
        >>> for _ in range(9):
        ...     optimizer.step()
        >>> handle.history.steps
        (0, 1, 2, 4, 8, 9)
    """

    every: int | None = None
    at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(sorted({expect_count("Record(at)", step, 0) for step in self.at})))
        if self.every is not None:
            expect_count("Record(every)", self.every, 1)
            if self.at:
                raise SpecError("Record: give every, or at, or neither.")

    def is_due(self, step: int) -> bool:
        """Whether to keep what is there after so many steps."""
        if self.every is not None:
            return step % self.every == 0
        return step in self.at if self.at else step & (step - 1) == 0

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> "RecordHandle":
        """Keep them from now on.

        Args:
            optimizer: Any of torch, or a wrapper that holds it as `.optimizer`.
            model: The model that it trains, with `Templates` applied; frozen coefficients are kept, too.

        Returns:
            The handle, whose `history` is what was kept.

        Raises:
            NoMatch: If no layers of the model mix templates.
            OptimizerMismatch: If the optimizer averages weights by itself (schedule-free), or runs no hooks.
            SpecError: If the model has such a handle already.
        """
        return RecordHandle(optimizer, model, self)


class RecordHandle(Handle):
    """What `Record.attach_` returns."""

    looks: ClassVar[bool] = True
    spec: Record

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, spec: Record) -> None:
        found = expect_mixtures(model)
        super().__init__(optimizer, model, [mixture.site for mixture in found.values()], spec)
        self.layers = {name: mixture.layers for name, mixture in found.items()}
        self._kept: list[tuple[int, list[Tensor]]] = []
        self.now()

    def after(self) -> None:
        """Keep the coefficients, if it is time."""
        if self.spec.is_due(self.steps):
            self.now()

    def expect_held(self) -> None:
        """Nothing where nothing is kept, which is most steps; `now` looks."""

    def now(self) -> None:
        """Keep them now, whatever the step; those of this step that were kept before are replaced.

        Raises:
            ModelChanged: If the model does not read the coefficients any more that this was attached to.
        """
        super().expect_held()
        self._kept = [moment for moment in self._kept if moment[0] < self.steps]
        self._kept.append((self.steps, self._copies()))

    @property
    def history(self) -> Evolution:
        """All that was kept, and what is there now as the last."""
        kept = [moment for moment in self._kept if moment[0] < self.steps]
        return self._evolution([*kept, (self.steps, self._copies())])

    @property
    def kept(self) -> Evolution:
        """All that was kept."""
        return self._evolution(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, the coefficients to the bit, as values that JSON can hold."""
        kept = self.kept
        moments = {"at": list(kept.steps), "coefficients": [_text(one) for one in kept.coefficients.values()]}
        return {**super().state_dict(), "kept": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; what was kept since is forgotten.

        Raises:
            SpecError: If the state is of another spec or of other parameters, or damaged. Nothing is changed then.
        """
        kept = self._read(state)
        super().load_state_dict(state)
        self._kept = kept

    def _copies(self) -> list[Tensor]:
        return [whole(site.tensor).clone() for site in self.sites]

    def _evolution(self, kept: Sequence[tuple[int, list[Tensor]]]) -> Evolution:
        of_group = zip(*(copies for _, copies in kept), strict=True)
        stacked = [torch.stack([copy.cpu() for copy in copies]) for copies in of_group]
        return Evolution(tuple(step for step, _ in kept), self.layers, dict(zip(self.layers, stacked, strict=True)))

    def _read(self, state: Mapping[str, Any]) -> list[tuple[int, list[Tensor]]]:
        try:
            steps, texts = state["kept"]["at"], state["kept"]["coefficients"]
            rising = all(map(is_count, steps)) and sorted(set(steps)) == steps and steps[-1] <= state["steps"]
            if not rising or set(state["kept"]) != {"at", "coefficients"}:
                raise ValueError
            pairs = zip(texts, self.sites, strict=True)
            read = [_tensor(text, (len(steps), *site.shape), site.tensor.dtype) for text, site in pairs]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SpecError(
                "The state of a Record is damaged, or of other parameters: what it kept does not fit."
            ) from error
        return [(step, [one[moment] for one in read]) for moment, step in enumerate(steps)]


def _text(tensor: Tensor) -> str:
    """The bytes of a tensor as text: a quarter of its numbers in JSON, and NaN has a place."""
    return base64.b64encode(tensor.contiguous().view(torch.uint8).numpy().tobytes()).decode()


def _tensor(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What `_text` wrote; `ValueError` if it is not of this shape."""
    held = bytearray(base64.b64decode(text, validate=True))
    if len(held) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(held)} bytes, need {shape} of {dtype}.")
    return torch.frombuffer(held, dtype=dtype).view(shape)
