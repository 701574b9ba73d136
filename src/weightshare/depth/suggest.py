"""Suggests which layers should share with which, given how many numbers may be stored.

Where in the grid: from measures across depth to an ordinary plan of `Tie`, to be printed, edited and applied. What
sharing costs is estimated from the weights, or from batches, by how much the outputs of every layer would change; the
suggestion is then tried against uniform sequential sharing of equal size, and the better of the two is returned.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
import math
from numbers import Integral, Real
from typing import Any
import warnings

from jaxtyping import Float
import torch
from torch import Tensor, nn

from weightshare._table import run_text
from weightshare._typing import Where
from weightshare.depth import merge
from weightshare.depth.fuse import Fusion, mean
from weightshare.depth.gram import grams
from weightshare.depth.measure import block_influence
from weightshare.depth.merge import BlockList, Clustering, Roles
from weightshare.depth.tie import Tie
from weightshare.depth.topology import renumber, sequential
from weightshare.errors import SharingWarning, SpecError
from weightshare.planning import Plan, make_plan
from weightshare.sharing import Group, Spec
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, block_path, places
from weightshare.surgery.sites import plain, sites
from weightshare.surgery.watch import first_tensor, run


def suggest(
    model: nn.Module,
    budget: float,
    batches: Iterable[Any] | None = None,
    where: Where = None,
    fuse: Fusion = mean,
) -> Plan:
    """Propose which layers share with which, so that the model stores no more than a budget.

    All roles of a block (its weights, biases, norms) share in the same way; blocks of one list share among themselves,
    so stages stay apart. Slots are merged one pair after the other, always the pair that costs least for each number
    that it saves; then single blocks are moved between slots while that helps. A merge costs

        Σ_i β_i mean_roles ‖X_i (W̄ - W_i)ᵀ‖² / (‖X_i W_iᵀ‖² cos²(X_i W̄ᵀ, X_i W_iᵀ))

    over its layers `i`: with batches, how much the outputs of each layer change relative to what is left of them, for
    the inputs `X_i` that it has in the unshared model, times the influence `β_i` of its block; the mean weighs a role
    by its numbers. For what has no such inputs (biases, norms) weights stand in for outputs; without batches they do
    for all, and `β_i = 1`. Blocks count alike, however large they are, so large ones are merged first.

    The same is done for neighbours alone, and with batches also by the weights alone. All are compared with sequential
    sharing, at as many slots in each list of blocks and at the least uniform rate that fits the budget: with batches by
    how much the model's outputs change once each is fused, without by the cost. The best is returned, and `plan.notes`
    say how they compare, or that sequential sharing is better.

    Args:
        model: Any model with repeated blocks. It is not changed.
        budget: A fraction of the numbers that the whole model stores now, above 0 to 1.0, such as 0.5; or their number,
            as an `int`.
        batches: Inputs of the model, each a tensor, a sequence of positional arguments or a mapping of keywords; a few
            are enough. All are held, and so are the Gram matrix of every layer's inputs and the outputs.
        where: Which parameters share, by the rule of `plan`.
        fuse: How the weights of a slot become one; costs are those of `mean`, the comparison is made with this one.

    Returns:
        A plan of `Tie(slots=...)`, with one list of slots where all blocks are in one list, else one for each.

    Raises:
        SpecError: If the budget is no such number or below the smallest size that can be reached, which is named; if
            the model cannot run on a batch, or gives no floating-point numbers first; or if a weight is on `meta`.
        NoMatch: If the pattern matches nothing that can be shared.
        SharingError: Otherwise as `plan`.

    Source: Men 2024 (ShortGPT), equation 1, for the influence; Jin 2022 (RegMean), equation 2, for the error of a merge
        by Gram matrices; Ward 1963 for merging the pair with the least increase. Which layers share is the choice that
        Lin 2022 makes by hand (section 3).
    Differs: the combination is ours.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> _ = net[3].load_state_dict(net[0].state_dict()), net[2].load_state_dict(net[1].state_dict())
        >>> suggest(net, 0.5).spec
        Tie(slots=(0, 1, 1, 0), fuse=mean)
    """
    model = plain(model)
    if not isinstance(fuse, Fusion):
        raise SpecError(f"suggest(fuse={fuse!r}): give a fusion such as ws.mean.")
    unshared = make_plan(model, Tie(rate=1), where)
    most = _limit(budget, unshared)
    held = None if batches is None else list(batches)
    if held is not None and not held:
        raise SpecError("suggest was given no batch: give some, or batches=None to decide by the weights.")
    lists = _lists(model, unshared.groups, *((None, None) if held is None else _measured(model, unshared.groups, held)))
    outside = unshared.stored_before - sum(group.stored_before for group in unshared.groups)
    candidates = _candidates(model, unshared.groups, lists, most - outside, measured=held is not None)
    plans = {name: _plan(model, unshared.groups, lists, found, fuse, where) for name, found in candidates.items()}
    if held is None:
        errors = {name: _relative(lists, found) for name, found in candidates.items()}
        what = "changes the weights by {:.4g} relative to what is left of them"
    else:
        errors = _changes(model, plans, held)
        what = f"changes the outputs on {len(held)} batches by {{:.4g}} relative to their size"
    best = min(plans, key=lambda name: errors[name])  # the first of equal ones
    return replace(plans[best], notes=(*plans[best].notes, _note(best, plans, errors, what)))


def _limit(budget: float, unshared: Plan) -> int:
    """The greatest number of stored numbers that a budget allows."""
    before = unshared.stored_before
    if isinstance(budget, bool) or not isinstance(budget, Real) or not budget > 0:
        raise SpecError(f"suggest(budget={budget!r}): need a fraction above 0, such as 0.5, or a number of numbers.")
    if isinstance(budget, Integral):
        most = int(budget)
    elif budget <= 1:
        most = int(budget * before)
    else:
        raise SpecError(f"suggest(budget={budget!r}): a fraction is at most 1.0; give a number of numbers as an int.")
    least = before - sum(group.stored_before - group.numel for group in unshared.groups)
    if most < least:
        raise SpecError(
            f"suggest(budget={budget!r}) allows {most:,} stored numbers of {before:,}. The smallest size that can be "
            f"reached is {least:,} ({least / before:.1%}): one slot for each role that where={unshared.where} matches. "
            "Allow that much, or let more share."
        )
    return most


def _measured(
    model: nn.Module, groups: Sequence[Group], batches: Sequence[Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The Gram matrices of the inputs of layers, by the path of the weight, and the influence of blocks, by path."""
    return grams(model, [path for group in groups for path in group.items], batches), block_influence(model, batches)


def _lists(
    model: nn.Module,
    groups: Sequence[Group],
    known: Mapping[str, Tensor] | None = None,
    influence: Mapping[str, float] | None = None,
) -> list[BlockList]:
    """The lists of blocks, and for each role what merging its layers would cost."""
    found = places(sites(model))
    known, influence = known or {}, influence or {}
    by_list = defaultdict[str, list[tuple[Group, list[int]]]](list)
    for group in groups:
        at = [place for place in (found[path] for path in group.items) if isinstance(place, Place)]
        by_list[at[0].before].append((group, [place.index for place in at]))
    lists = []
    for before, members in by_list.items():
        indices = sorted({index for _, row in members for index in row})
        betas = [influence.get(block_path(before, index), 1.0) for index in indices]
        betas = [1.0 if math.isnan(beta) else max(beta, 0.0) for beta in betas]  # NaN: the block changes the shape
        by_members = defaultdict[tuple[int, ...], list[Group]](list)
        for group, row in members:
            by_members[tuple(indices.index(index) for index in row)].append(group)
        whole = sum(group.numel for group, _ in members) or 1
        roles = tuple(
            Roles(
                at,
                sum(group.numel for group in alike),
                torch.tensor([group.numel / whole for group in alike], dtype=torch.float64),
                torch.stack([_products(model, group, known) for group in alike]),
                torch.tensor([betas[place] for place in at], dtype=torch.float64),
            )
            for at, alike in by_members.items()
        )
        lists.append(BlockList(before, tuple(indices), roles))
    return lists


def _products(model: nn.Module, group: Group, known: Mapping[str, Tensor]) -> Float[Tensor, "n n n"]:
    """`T_i[j, k]` of a group: inner products of its weights, on the inputs of each layer where these are known."""
    tensors = [edit.parameter_at(model, path).detach() for path in group.items]
    if any(tensor.is_meta for tensor in tensors):
        raise SpecError(f"'{group.items[0]}' is on the meta device and has no numbers: load the model first.")
    weights = torch.stack([tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors])
    layers = len(tensors)
    if not all(path in known for path in group.items):
        flat = weights.flatten(1).cpu().double()
        inner = flat @ flat.T
        return (inner / (inner.diagonal().mean() or 1.0)).expand(layers, layers, layers)
    rows = []
    for layer, path in enumerate(group.items):
        gram = known[path].to(weights.dtype)  # (groups, in, in)
        matrices = weights.unflatten(1, (len(gram), -1)).flatten(3)  # (layers, groups, out, in)
        inner = ((matrices @ gram).flatten(1) @ matrices.flatten(1).T).cpu().double()
        rows.append(inner / inner[layer, layer] if inner[layer, layer] > 0 else torch.zeros_like(inner))
    return torch.stack(rows)


def _candidates(
    model: nn.Module, groups: Sequence[Group], lists: Sequence[BlockList], most: int, measured: bool
) -> dict[str, Clustering]:
    """What is compared, by name: the suggestions first, then sequential sharing."""
    found: dict[str, Clustering] = {"suggested sharing": merge.agglomerate(lists, most)}
    others: dict[str, Clustering] = {"suggested sharing of neighbours": merge.agglomerate(lists, most, runs=True)}
    if measured:
        others["suggested sharing by the weights alone"] = merge.agglomerate(_lists(model, groups), most)
    for name, clusters in others.items():
        if not any(_same(clusters, other) for other in found.values()):
            found[name] = clusters
    return {**found, **_sequential(lists, found["suggested sharing"], most)}


def _same(one: Clustering, other: Clustering) -> bool:
    return all(set(one[path]) == set(other[path]) for path in one)


def _sequential(lists: Sequence[BlockList], ours: Clustering, most: int) -> dict[str, Clustering]:
    """Sequential sharing at equal size, and at the least uniform rate that fits, if that is something else."""

    def at(slots: Mapping[str, int]) -> Clustering:
        return {one.path: one.clusters(sequential(len(one.indices), slots[one.path])) for one in lists}

    found = {"sequential sharing with as many slots": at({path: len(clusters) for path, clusters in ours.items()})}
    depths = {one.path: len(one.indices) for one in lists}
    rates = sorted({depth / slots for depth in depths.values() for slots in range(1, depth + 1)})
    uniform = (at({path: math.ceil(depth / rate - 1e-9) for path, depth in depths.items()}) for rate in rates)
    fitting = next((clusters for clusters in uniform if merge.stored(lists, clusters) <= most), None)
    if fitting is not None and not any(_same(fitting, other) for other in found.values()):
        found["sequential sharing at one rate"] = fitting
    return {name: clusters for name, clusters in found.items() if merge.stored(lists, clusters) <= most}


def _plan(
    model: nn.Module,
    groups: Sequence[Group],
    lists: Sequence[BlockList],
    found: Clustering,
    fuse: Fusion,
    where: Where,
) -> Plan:
    labels = {one.path: one.labels(found[one.path]) for one in lists}
    if len(lists) == 1 and all(len(group.items) == len(lists[0].indices) for group in groups):
        slots: Any = labels[lists[0].path]
    else:
        slots = {}
        for one in lists:  # by the index of a block; those that share nothing get a slot that nobody reads otherwise
            spare = len(labels[one.path])
            row = [spare + index for index in range(max(one.indices) + 1)]
            for index, label in zip(one.indices, labels[one.path], strict=True):
                row[index] = label
            slots[one.path] = renumber(row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SharingWarning)  # the plan's notes say it, and a candidate may be dropped
        return make_plan(model, Tie(slots=slots, fuse=fuse), where)


def _relative(lists: Sequence[BlockList], found: Clustering) -> float:
    """Root of the mean cost of a block."""
    return (merge.cost(lists, found) / sum(len(one.indices) for one in lists)) ** 0.5


def _changes(model: nn.Module, plans: Mapping[str, Plan], batches: Sequence[Any]) -> dict[str, float]:
    """`‖f'(x) - f(x)‖ / ‖f(x)‖` over all batches, for the model under each plan; it is put back after each."""
    before = _outputs(model, batches)
    size = sum(out.square().sum().item() for out in before)
    changes: dict[str, float] = {}
    tried: dict[Spec, float] = {}
    for name, plan in plans.items():
        if plan.spec in tried:
            changes[name] = tried[plan.spec]
            continue
        with edit.transaction(model) as edits:
            plan.spec.share_groups_(edits, plan.groups, batches if plan.spec.reads_batches else None)
            after = _outputs(model, batches)
            edits.roll_back()
        off = sum((a - b).square().sum().item() for a, b in zip(after, before, strict=True))
        changes[name] = tried[plan.spec] = (off / size) ** 0.5 if size else 0.0
    return changes


def _outputs(model: nn.Module, batches: Sequence[Any]) -> list[Tensor]:
    found = []
    for number, batch in enumerate(batches):
        out = first_tensor(run(model, batch, f"batch {number}"))
        if out is None or not out.is_floating_point():
            got = "no tensor" if out is None else str(out.dtype)
            raise SpecError(f"{type(model).__name__} gives {got} first: need floating-point outputs to compare.")
        found.append(out.cpu().double())
    return found


def _note(best: str, plans: Mapping[str, Plan], errors: Mapping[str, float], what: str) -> str:
    """How the candidates compare, and whether the best one beats sequential sharing."""
    said = [f"{best[0].upper()}{best[1:]} {what.format(errors[best])}"]
    for name in plans:
        if name != best:
            slots = "; ".join(run_text(row, 16) for row in _rows(plans[name]))
            said.append(f"{name} ({slots}; {plans[name].stored_after:,} numbers) by {errors[name]:.4g}")
    rivals = [name for name in plans if name.startswith("sequential")]
    if best in rivals:
        end = "It is what is planned: no suggestion beats it."
    elif not rivals:
        end = "No sequential sharing of this kind fits the budget."
    else:
        end = f"That is {' and '.join(f'{_less(errors[best], errors[name])} by {name}' for name in rivals)}."
    return f"{', '.join(said)}. {end}"


def _less(ours: float, theirs: float) -> str:
    return "as much as" if ours >= theirs else f"{1 - ours / theirs:.0%} less than"


def _rows(plan: Plan) -> list[tuple[int, ...]]:
    assert isinstance(plan.spec, Tie)
    assert plan.spec.slots is not None
    listed = plan.spec.by_list
    return [plan.spec.slots] if listed is None else list(listed.values())
