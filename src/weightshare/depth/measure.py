"""How alike layers are: their weights, also after alignment, and how much each block changes what passes through it.

Where in the grid: what one measures across depth before sharing it. `suggest` decides by such numbers, and pictures of
them are in `analysis`. What layers compute is compared by `cka`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from jaxtyping import Float
import torch
from torch import Tensor, nn

from weightshare._table import WIDTH, render
from weightshare.depth.align import Stack, match, stacks
from weightshare.depth.units import PATTERNS, Pattern, Units, find_units
from weightshare.errors import NoMatch, SpecError
from weightshare.sharing import Group
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, numbered, places, sequences
from weightshare.surgery.sites import plain, sites
from weightshare.surgery.watch import Layers, first_tensor, modules_at, run, watching


@dataclass(frozen=True, eq=False)
class Similarity:
    """A number for each pair of layers, with their names.

    Args:
        measure: What the numbers are.
        rows: Names of the layers that the rows stand for.
        columns: Names of those that the columns stand for.
        values: The matrix, float64, on the CPU.
    """

    measure: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[Tensor, "rows columns"]

    def __str__(self) -> str:
        body = [[name, *(f"{x:.3f}" for x in row)] for name, row in zip(self.rows, self.values.tolist(), strict=True)]
        if len(max(self.rows, key=len)) + sum(max(5, len(name)) + 2 for name in self.columns) < WIDTH - 2:
            return render([self.measure, *self.columns], body, numbers=self.columns)
        rows, columns = self.values.shape
        low, high = self.values.min().item(), self.values.max().item()
        return f"{self.measure}: {rows} × {columns} layers, from {low:.3f} to {high:.3f}"


@dataclass(frozen=True)
class WeightSimilarity:
    """How alike the weights of a group's layers are.

    Args:
        name: The role, as in a plan.
        cosine: `⟨W_i, W_j⟩ / (‖W_i‖ ‖W_j‖)`; NaN where a weight is all zeros.
        distance: `‖W_i − W_j‖ / √((‖W_i‖² + ‖W_j‖²)/2)`: 0 where equal, `√2` where orthogonal and equally long.
    """

    name: str
    cosine: Similarity
    distance: Similarity


def weight_similarity(
    model: nn.Module, groups: Sequence[Group], aligned: bool = False, patterns: Sequence[Pattern] = PATTERNS
) -> list[WeightSimilarity]:
    """Compare the weights of every two layers of a group.

    Args:
        model: Any module; it is not changed.
        groups: Those of a plan for it, such as `ws.plan(model, ws.Tie(rate=1)).groups`.
        aligned: Whether the inner units of the second layer of each pair are first matched to those of the first one,
            by all tensors of the groups (see `align`). Costs a matching for each pair of blocks.
        patterns: Where inner units are looked for.

    Returns:
        One for each group, in their order.

    Raises:
        SpecError: If a weight is on the meta device.
        ModelChanged: If the model has not the groups' parameters.
        ConfigError: If scipy, which solves the matching, is not installed.

    Source: Ainsworth 2022, section 3.2, for the matching. Differs: layers of one network, matched in pairs.

    Example:
        >>> from weightshare.depth.tie import Tie
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> _ = nn.init.eye_(net[0].weight), nn.init.ones_(net[1].weight)
        >>> (found,) = weight_similarity(net, make_plan(net, Tie(rate=1), None).groups)
        >>> print(found.distance)
        relative distance   0.weight   1.weight
        ───────────────────────────────────────
        0.weight               0.000      0.816
        1.weight               0.816      0.000
    """
    model = plain(model)
    for path in (path for group in groups for path in group.items):
        if edit.parameter_at(model, path).is_meta:
            raise SpecError(f"'{path}' is on the meta device and has no numbers: load the model first.")
    matched = _Matched(model, groups, patterns) if aligned else None
    return [_compared(model, group, matched) for group in groups]


def block_influence(
    model: nn.Module, batches: Iterable[Any], layers: Layers | None = None, axis: int | None = None
) -> dict[str, float]:
    """How much each block changes what passes through it: `1 − mean cos(x, block(x))`.

    Args:
        model: Run in evaluation mode, without gradients, and left as it was.
        batches: Inputs, each a tensor, a sequence of positional arguments or a mapping of keywords.
        layers: Globs on paths of modules, or a type; by default all blocks of what repeats.
        axis: Of the features. By default the last one of up to three axes, and the second one (channels) of more.

    Returns:
        By path of a block, from 0 (it turns nothing) to 2; NaN where input and output differ in shape. The mean is over
        all positions of all batches. Where one block runs several times, over all runs.

    Raises:
        SpecError: If the model cannot run on a batch, there is no batch, or a block takes or gives no tensor.
        NoMatch: If a pattern matches no module.

    Source: Men 2024 (ShortGPT), eq. 1 (block influence). Differs: nothing.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> _ = nn.init.eye_(net[0].weight), net[1].weight.data.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        >>> block_influence(net, [torch.randn(5, 2)])
        {'0': 0.0, '1': 1.0}
    """
    model = plain(model)
    chosen = blocks_of(model) if layers is None else modules_at(model, layers)
    sums, counts = dict.fromkeys(chosen, 0.0), dict.fromkeys(chosen, 0)

    def note(path: str, inputs: object, output: object) -> None:
        x, y = first_tensor(inputs), first_tensor(output)
        if x is None or y is None:
            raise SpecError(f"'{path}' takes or gives no tensor: leave it out of the layers.")
        if x.shape != y.shape or not x.ndim:
            sums[path] = float("nan")
        else:
            along = axis if axis is not None else -1 if x.ndim <= 3 else 1
            wide = torch.float32 if x.device.type == "mps" else torch.float64
            cosines = nn.functional.cosine_similarity(x.to(wide), y.to(wide), dim=along)
            sums[path] += cosines.sum().item()
            counts[path] += cosines.numel()

    number = -1
    for number, batch in enumerate(batches):
        with watching(model, chosen, note):
            run(model, batch, f"batch {number}")
    if number < 0:
        raise SpecError("block_influence was given no batch.")
    return {path: 1.0 - sums[path] / counts[path] if counts[path] else float("nan") for path in chosen}


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """All blocks of what repeats, in the order of the model; those that differ from their siblings too.

    Raises:
        NoMatch: If nothing repeats.
    """
    model_sites = sites(model)
    lists = {place.before for place in places(model_sites).values() if isinstance(place, Place)}
    named = sequences(model_sites)
    found = {
        path: module
        for path, module in plain(model).named_modules()
        if any(before in lists and not after for before, _, after in numbered(path, named))
    }
    if not found:
        raise NoMatch(f"{type(model).__name__} has no repeated blocks: say which layers are meant.")
    return found


class _Matched:
    """For every pair of blocks the orders in which the units of the second lie closest to the first."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], patterns: Sequence[Pattern]) -> None:
        self._stacks = stacks(model, groups)
        self._units = [find_units(next(iter(stack.blocks.values())), patterns)[0] for stack in self._stacks]
        self._orders: dict[tuple[int, int, int], list[tuple[Units, Tensor]]] = {}

    def second(self, first: str, second: str, tensor: Tensor) -> Tensor:
        """The tensor of the second path, in the order of the first one's block."""
        for number, stack in enumerate(self._stacks):
            blocks = [_index_of(stack, path) for path in (first, second)]
            if blocks[0] is not None and blocks[1] is not None:
                inside = second.removeprefix(stack.path(blocks[1]) + ".")
                for units, order in self._of(number, blocks[0], blocks[1]):
                    for span in units.spans:
                        tensor = span.permuted(tensor, order) if span.path == inside else tensor
        return tensor

    def _of(self, number: int, first: int, second: int) -> list[tuple[Units, Tensor]]:
        key = (number, first, second)
        if key not in self._orders:
            stack = self._stacks[number]
            self._orders[key] = [
                (units, match(stack.rows(units, first), stack.rows(units, second)))
                for units in self._units[number]
                if any(span.path in stack.readers for span in units.spans)
            ]
        return self._orders[key]


def _index_of(stack: Stack, path: str) -> int | None:
    """The block of a stack that holds a shared path."""
    return next((index for index in stack.blocks if path.removeprefix(stack.path(index) + ".") in stack.readers), None)


def _compared(model: nn.Module, group: Group, matched: _Matched | None) -> WeightSimilarity:
    layers = len(group.items)
    cosine, distance = torch.eye(layers, dtype=torch.float64), torch.zeros(layers, layers, dtype=torch.float64)
    for i, j in combinations(range(layers), 2):
        first, second = (edit.parameter_at(model, group.items[item]).detach() for item in (i, j))
        if matched is not None:
            second = matched.second(group.items[i], group.items[j], second)
        x, y = (tensor.cpu().double() for tensor in (first, second))
        squares = x.square().sum(), y.square().sum()
        cosine[i, j] = cosine[j, i] = (x * y).sum() / (squares[0] * squares[1]).sqrt()
        off = (x - y).norm()
        distance[i, j] = distance[j, i] = off if off == 0 else off / ((squares[0] + squares[1]) / 2).sqrt()
    kind = ", aligned" if matched is not None else ""
    return WeightSimilarity(
        group.name,
        Similarity(f"cosine{kind}", group.items, group.items, cosine),
        Similarity(f"relative distance{kind}", group.items, group.items, distance),
    )
