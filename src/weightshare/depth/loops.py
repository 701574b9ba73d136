"""Loops in a chain of blocks: where they are, and the modules that a folded network is made of.

A chain `a b b b c` is `a`, three passes of `b`, and `c`. Each pass keeps what it has of its own (norms, biases, a
scale); the weights are one.

In the grid: across depth, from layers that are equal to one layer that runs several times.
Source: Savarese 2019, "Folding learned networks into explicitly recurrent forms".
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """Blocks that follow each other, once or several times.

    Args:
        start: Number of the first block.
        length: Blocks of one pass.
        passes: How often they run; 1 is no loop.
    """

    start: int
    length: int
    passes: int = 1

    @property
    def blocks(self) -> range:
        """The numbers of all blocks, of all passes."""
        return range(self.start, self.start + self.length * self.passes)


def find_loops(labels: Sequence[Hashable]) -> tuple[Run, ...]:
    """Cut a chain into runs so that as many blocks as possible are further passes of others.

    Args:
        labels: One for each block; blocks of equal labels are the same.

    Returns:
        Runs that cover the chain in order. Of several ways that save as many blocks, one of the fewest runs.

    Source: Savarese 2019, folding; the search is ours, by dynamic programming over suffixes, `O(n² log n)` comparisons
    of runs.

    Example:
        >>> find_loops("abbbcdcd")
        (Run(start=0, length=1, passes=1), Run(start=1, length=1, passes=3), Run(start=4, length=2, passes=2))
    """
    count = len(labels)
    best: list[tuple[tuple[int, int], Run | None]] = [((0, 0), None)] * (count + 1)
    for start in range(count - 1, -1, -1):
        (saved, runs), after = best[start + 1]
        length = after.length + 1 if after is not None and after.passes == 1 else 1
        choices = [((saved, runs - (length == 1)), Run(start, length))]
        for length in range(1, (count - start) // 2 + 1):
            body, passes = labels[start : start + length], 1
            while labels[start + passes * length : start + (passes + 1) * length] == body:
                passes += 1
                saved, runs = best[start + passes * length][0]
                choices.append(((saved + (passes - 1) * length, runs - 1), Run(start, length, passes)))
        best[start] = max(choices, key=lambda choice: choice[0])
    found, at = [], 0
    while at < count:
        run = best[at][1]
        assert run is not None
        found.append(run)
        at += run.length * run.passes
    return tuple(found)


def loop_text(names: Sequence[str], runs: Sequence[Run]) -> str:
    """A chain as text: `0 → 3 × (1) → 4`.

    Args:
        names: Of all blocks.
        runs: From `find_loops`.

    Example:
        >>> loop_text("012345", find_loops("abbbcd"))
        '0 → 3 × (1) → 4 → 5'
    """
    parts = []
    for run in runs:
        body = " → ".join(names[run.start : run.start + run.length])
        parts.append(body if run.passes == 1 else f"{run.passes} × ({body})")
    return " → ".join(parts)


class Looped(nn.Sequential):
    """A chain of blocks, some of which run in a loop: each pass of a loop has the weights of the first.

    Blocks have the names that they had in the chain. A further pass is a block that keeps its own norms and biases, and
    whose weights are parameters of the block that it repeats, so a state dict fits the unfolded chain too.

    Args:
        blocks: All passes of all blocks, by name, in order.
        runs: From `find_loops`.

    Example:
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> second.weight = first.weight
        >>> chain = Looped({"0": first, "1": second}, [Run(0, 1, passes=2)])
        >>> chain(torch.zeros(3, 2)).shape, sum(p.numel() for p in chain.parameters())
        (torch.Size([3, 2]), 8)
    """

    def __init__(self, blocks: Mapping[str, nn.Module], runs: Sequence[Run] = ()) -> None:
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)
        self.runs = tuple(runs) or (Run(0, len(blocks)),)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        blocks = list(self)
        for run in self._runs_now():
            for number in range(run.passes):
                first = run.start + number * run.length
                for block in blocks[first : first + run.length]:
                    x = block(x)
        return x

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return loop_text(list(self._modules), self._runs_now())

    def _runs_now(self) -> tuple[Run, ...]:
        """Its loops, unless somebody has added or removed blocks: then all that are there run in order, once."""
        whole = len(self) == sum(len(run.blocks) for run in self.runs)
        return self.runs if whole else (Run(0, len(self)),)


class Scaled(nn.Module):
    """A layer whose weight is `scale` times that of another one, and whose bias is its own.

    Args:
        layer: A linear layer or a convolution; its weight is the other's, its bias is taken out of it.
        scale: A number; what is to be trained is a parameter.
    """

    LINEAR = (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    )

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Module, scale: float | nn.Parameter) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale
        self.register_parameter("bias", layer._parameters.pop("bias"))
        layer.register_parameter("bias", None)
        self.trailing = 0 if isinstance(layer, nn.Linear) else layer.get_parameter("weight").ndim - 2

    def __getattr__(self, name: str) -> Any:
        """What the layer says of itself, such as `out_features`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Whether what a layer gives is linear in its weight: it runs as torch's own layers do."""
        return type(layer).forward in [kind.forward for kind in cls.LINEAR]

    @property
    def weight(self) -> Tensor:
        """What it computes with."""
        return self.scale * self.layer.get_parameter("weight")

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        # Not the weight: it would be made anew, and gradients of all passes could not be added up where they arise.
        y = self.scale * self.layer(x, *arguments, **named)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.trailing)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        if isinstance(self.scale, Tensor):
            return f"scale={self.scale.item():.4g}, trained"
        return f"scale={self.scale:.4g}"
