"""Aligns layers before they are averaged: units of one layer are matched to those of another, and put in their order.

Two layers may compute nearly the same and still have a poor mean, because their inner units stand in another order.
Permuting them (see `units`) changes no output, so the layers that read one slot are first brought into the order in
which they lie closest to each other:

    π_l = argmax_π Σ_t ⟨ mean_{m<l} W_t(m), P_π W_t(l) ⟩        over the tensors `t` that are shared

a linear assignment problem, solved exactly. The sum of squared distances to the mean of the layers before falls, or
stays. `Tie(fuse=ws.permuted_mean)` does this, then takes the mean.

Source: Ainsworth 2022 ("Git Re-Basin"), section 3.2 (matching weights); Singh 2020 ("Model fusion via optimal
transport") for the idea.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
import torch
from torch import Tensor, nn

from weightshare._table import render
from weightshare.depth.units import PATTERNS, Pattern, Units, attribute_at, find_units, tensor_at
from weightshare.errors import ConfigError
from weightshare.sharing import Group, LeftOut
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, block_path, join, places
from weightshare.surgery.sites import sites


@dataclass(frozen=True)
class AlignedUnits:
    """What was done to the inner units of one role.

    Args:
        name: Where, and which layers write and read them; `*` stands for the block.
        count: Units of each layer.
        moved: For each layer by its block index, how many of its units changed their place.
        before: `√(Σ‖W_l − mean‖² / Σ‖W_l‖²)` over the shared tensors, a mean for each slot.
        after: The same afterwards.
    """

    name: str
    count: int
    moved: Mapping[int, int]
    before: float
    after: float


@dataclass(frozen=True)
class Aligned:
    """What `align_` permuted, and which groups have no inner units or keep their order, with the reason."""

    units: tuple[AlignedUnits, ...]
    left_out: tuple[LeftOut, ...]

    def __str__(self) -> str:
        columns = ("inner units", "units", "layers", "moved", "distance to the mean before", "after")
        rows = [
            (
                *(one.name, one.count, len(one.moved), sum(one.moved.values())),
                *(f"{one.before:.4f}", f"{one.after:.4f}"),
            )
            for one in self.units
        ]
        kept = [f"Kept as it is: {left.path}: {left.reason}." for left in self.left_out]
        return "\n".join([render(columns, rows, numbers=columns[1:]), "", *kept])


@dataclass(frozen=True)
class Stack:
    """Blocks of one structure, whose parameters some groups share.

    Args:
        before: Path of the container of blocks.
        blocks: The blocks by their index.
        readers: For each shared path inside a block, the block indices that read each slot.
    """

    before: str
    blocks: Mapping[int, nn.Module]
    readers: Mapping[str, Sequence[Sequence[int]]]

    def together(self, units: Units) -> list[list[int]]:
        """Blocks to be aligned with each other: those that read one slot of any tensor that the units lie in."""
        parts: list[set[int]] = []
        for span in units.spans:
            for readers in self.readers.get(span.path, ()):
                meets = [part for part in parts if part & set(readers)]
                parts = [part for part in parts if not part & set(readers)] + [set(readers).union(*meets)]
        return [sorted(part) for part in sorted(parts, key=min) if len(part) > 1]

    def path(self, index: int, inside: str = "") -> str:
        """From the root of the model, the path of a block or of something in it."""
        return join(block_path(self.before, index), inside)

    def rows(self, units: Units, index: int) -> Float[Tensor, "units numbers"]:
        """What the shared tensors of a block hold for each unit; a tensor with two such axes counts on both."""
        shared = [span for span in units.spans if span.path in self.readers]
        return torch.cat([span.rows(tensor_at(self.blocks[index], span.path)) for span in shared], 1)


def align_(edits: edit.Transaction, groups: Sequence[Group], patterns: Sequence[Pattern] = PATTERNS) -> Aligned:
    """Permute inner units so that the layers which read one slot agree as far as they can. Outputs stay, to rounding.

    The first reader of a slot keeps its order; each later one is matched to the mean of those before it. Parameters and
    the buffers of norms between are permuted together. Gradients of what moves are dropped; an optimizer's state would
    belong to other units, so make it afterwards.

    Args:
        edits: Of the model; all is undone if anything raises.
        groups: Those of a plan that is not applied yet.
        patterns: Where inner units are looked for.

    Returns:
        What was moved, and what was not with the reason; print it.

    Raises:
        ConfigError: If scipy, which solves the matching, is not installed.
        SpecError: If a tensor cannot be written.

    Source: Ainsworth 2022, section 3.2. Differs: layers of one network are matched, not networks; each layer to the
        mean of those before it; one pass over the units, in the network's order.

    Example:
        >>> from weightshare.depth.tie import Tie
        >>> from weightshare.planning import make_plan
        >>> class MLP(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = nn.Linear(2, 5), nn.Linear(5, 2)
        ...     def forward(self, x):
        ...         return self.fc2(self.fc1(x).relu())
        >>> net = nn.Sequential(MLP(), MLP())
        >>> plan = make_plan(net, Tie(rate=2), None)
        >>> with edit.transaction(net) as edits:
        ...     aligned = align_(edits, plan.groups)
        >>> aligned.units[0].name, aligned.units[0].after <= aligned.units[0].before
        ('*.fc1 → fc2', True)
    """
    reasons: dict[str, str] = {}
    done: list[AlignedUnits] = []
    read_once = {site.path for site in sites(edits.model) if not site.aliases}
    found_stacks = stacks(edits.model, groups)
    touched: set[str] = set()
    for stack in found_stacks:
        found, refused = find_units(next(iter(stack.blocks.values())), patterns)
        reasons |= {_role(stack, name): reason for name, reason in refused.items()}
        for units in found:
            reason = _unlike(stack, units, read_once)
            if reason:
                reasons[_role(stack, units.name)] = reason
                continue
            parts = stack.together(units)
            if parts:
                done.append(_align(edits, stack, units, parts))
                touched |= {_role(stack, span.path) for span in units.spans}
    idle = [group.name for group in groups if group.name not in touched and group.assignment.slots < len(group.items)]
    left_out = [LeftOut(name, reason) for name, reason in reasons.items()]
    left_out += [LeftOut(name, "it has no axis of inner units that is known") for name in idle]
    return Aligned(tuple(done), tuple(left_out))


def match(reference: Float[Tensor, "units numbers"], rows: Float[Tensor, "units numbers"]) -> Int[Tensor, " units"]:
    """The order in which rows lie closest to a reference: `rows[order]` has the least `‖reference − rows[order]‖`.

    Args:
        reference: What to match.
        rows: What is put in order.

    Returns:
        A permutation; the identity if none is closer.

    Raises:
        ConfigError: If scipy is not installed.

    Source: Kuhn 1955, as scipy solves it, in time cubic in the units; Ainsworth 2022, section 3.2.

    Example:
        >>> match(torch.eye(3), torch.eye(3)[[1, 2, 0]])
        tensor([2, 0, 1])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError(f"align matches units with scipy ({error}): pip install 'weightshare[graph]'.") from error
    # Permutations keep the norm, so the least distance is the greatest inner product.
    likeness = (reference @ rows.T).cpu().double()
    order = torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
    gain = likeness.gather(1, order[:, None]).sum() - likeness.diagonal().sum()
    return order if gain > 1e-12 * likeness.abs().max() else torch.arange(len(rows))


def stacks(model: nn.Module, groups: Sequence[Group]) -> list[Stack]:
    """Sort groups by the blocks that hold them: one `Stack` for each container and structure of block."""
    at = places(sites(model))
    holders = defaultdict[tuple[object, ...], dict[str, list[list[int]]]](dict)
    members = defaultdict[tuple[object, ...], set[int]](set)
    for group in groups:
        found = [at.get(path) for path in group.items]
        spots = [place for place in found if isinstance(place, Place)]
        if len(spots) == len(found):
            indices = [place.index for place in spots]
            key = (spots[0].before, spots[0].kind)
            holders[key][spots[0].after] = [[indices[item] for item in readers] for readers in group.assignment.readers]
            members[key] |= set(indices)
    made = [Stack(str(key[0]), dict.fromkeys(sorted(members[key]), model), roles) for key, roles in holders.items()]
    return [
        replace(stack, blocks={index: model.get_submodule(stack.path(index)) for index in stack.blocks})
        for stack in made
        if "" not in stack.readers  # there the "block" is a parameter, of a ParameterList
    ]


def _align(edits: edit.Transaction, stack: Stack, units: Units, parts: Sequence[Sequence[int]]) -> AlignedUnits:
    moved: dict[int, int] = {}
    squares = dict.fromkeys(("before", "after", "all"), 0.0)
    for first, *others in parts:
        total = stack.rows(units, first)
        rows_before = [total]
        rows_after = [total]
        moved[first] = 0
        for number, index in enumerate(others, 1):
            rows = stack.rows(units, index)
            order = match(total / number, rows)
            moved[index] = int((order != torch.arange(units.count)).sum())
            if moved[index]:
                _permute(edits, stack.blocks[index], units, order)
            rows_before.append(rows)
            rows_after.append(rows[order.to(rows.device)])
            total = total + rows_after[-1]
        squares["before"] += _off_mean(rows_before)
        squares["after"] += _off_mean(rows_after)
        squares["all"] += sum(rows.square().sum().item() for rows in rows_before)
    before, after = ((squares[which] / (squares["all"] or 1.0)) ** 0.5 for which in ("before", "after"))
    return AlignedUnits(_role(stack, units.name), units.count, dict(sorted(moved.items())), before, after)


def _permute(edits: edit.Transaction, block: nn.Module, units: Units, order: Tensor) -> None:
    for span in units.spans:
        tensor = tensor_at(block, span.path)
        edits.write(tensor, span.permuted(tensor, order))
        if isinstance(tensor, nn.Parameter):
            edits.forget_gradient(tensor)


def _off_mean(rows: Sequence[Tensor]) -> float:
    mean = sum(rows[1:], rows[0]) / len(rows)
    return sum((one - mean).square().sum().item() for one in rows)


def _unlike(stack: Stack, units: Units, read_once: set[str]) -> str:
    """Why the blocks of a stack cannot be put in another order together, or nothing."""
    for index, block in stack.blocks.items():
        for span in units.spans:
            path = stack.path(index, span.path)
            if isinstance(tensor_at(block, span.path), nn.Parameter) and path not in read_once:
                return f"'{path}' is read elsewhere too, where its order has to stay"
        heads = attribute_at(block, units.heads) if units.heads else units.count
        if heads != units.count:
            return f"block {index} has {heads} heads, the first one {units.count}"
    return ""


def _role(stack: Stack, inside: str) -> str:
    return join(block_path(stack.before, "*"), inside)
