"""The verbs: what a user does to a model. The only module that knows every axis.

`plan → apply_ → train → fold`, with `share_` for the first two and `unshare_` for the way back. A trailing `_` means
that the first argument is changed.
"""

from collections.abc import Iterator, Sequence
import copy
import math
from typing import Any

import torch
from torch import nn

from weightshare import planning
from weightshare._typing import Where
from weightshare.errors import ModelChanged, OptimizerMismatch, SpecError
from weightshare.planning import Plan
from weightshare.sharing import Spec
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, places
from weightshare.surgery.sites import plain, sites, unwrapped


def plan(model: nn.Module, spec: Spec, where: Where = None) -> Plan:
    """Say what sharing would do to a model, without doing it.

    Args:
        model: Any module, on any device; on `meta` it can be planned for, not shared.
        spec: How to share, such as `Tie(rate=2)`.
        where: Which parameters: a glob on the path of a parameter or of a module above it, where `*` crosses dots; a
            list of globs; a module type; a predicate on `Site`; or `None` for all that the spec fits.

    Returns:
        A `Plan`: print it, compare it, write it as JSON, apply it.

    Raises:
        NoMatch: If the pattern matches nothing, or nothing that can be shared; the nearest paths or reasons are given.
        AlreadyShared: If the pattern names a parameter that is read under several names.
        ShapeMismatch: If weights of one slot differ in shape, dtype or device, or only some of them are frozen.
        SpecError: If the spec does not fit a group, or the model has no parameters. The model is never changed.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> halved = plan(net, Tie(rate=2), where="*.weight")
        >>> halved.stored_before, halved.stored_after
        (48, 30)
    """
    return planning.make_plan(model, spec, where)


def share_(model: nn.Module, spec: Spec, where: Where = None) -> Plan:
    """Plan, and apply the plan, all or nothing.

    Args:
        model: The module to change.
        spec: As for `plan`.
        where: As for `plan`.

    Returns:
        The plan that was applied.

    Raises:
        SharingError: As `plan` and `Plan.apply_`; the model is then bit for bit as it was.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> _ = share_(net, Tie(slots=[0, 1, 1, 0]), where="*.weight")
        >>> net[0].weight is net[3].weight
        True
    """
    made = plan(model, spec, where)
    made.apply_(model)
    return made


def unshare_(model: nn.Module) -> None:
    """Give every site that a plan shared a parameter of its own again, with the numbers that it read.

    Outputs are as before; training then moves the copies apart. Ties that are not ours (an embedding and a head) stay.
    The first reader keeps the slot's parameter object; an optimizer needs the new ones (`check` says which).

    Args:
        model: A model that `share_` or `Plan.apply_` changed, and not a part of it, since the plan is kept where it was
            applied; a model without plans is left as it is.

    Raises:
        ModelChanged: If a path that a plan shares is gone. The model is then as it was.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = share_(net, Tie(rate=2))
        >>> unshare_(net)
        >>> net[0].weight is net[1].weight, torch.equal(net[0].weight, net[1].weight)
        (False, True)
    """
    model = plain(model)
    with edit.transaction(model) as edits:
        edit.untie(edits, planning.applied_ties(model))
        _forget_plans(edits, model)


def retie_(model: nn.Module, compare: bool = True) -> list[str]:
    """Tie again what plans tied and PyTorch untied: `load_state_dict(assign=True)` and `to_empty()` do so silently.

    Args:
        model: A model with applied plans.
        compare: Refuse where the untied copies hold different numbers. `False` keeps the numbers of each slot's first
            reader, which is right after `to_empty()`.

    Returns:
        The paths that had come undone.

    Raises:
        ModelChanged: If copies differ, or a path is gone. The model is then as it was.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = share_(net, Tie(rate=2), where="*.weight")
        >>> _ = net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
        >>> retie_(net)
        ['1.weight']
    """
    model = plain(model)
    with edit.transaction(model) as edits:
        return edit.tie(edits, planning.applied_ties(model), compare)


def fold(model: nn.Module) -> nn.Module:
    """A new plain module that computes the same and stores only what must be stored.

    Hard sharing folds exactly: layers that share hold one `nn.Parameter` under several names, which is all that torch
    needs. The result has torch's classes (and the model's own) only, and no trace of plans.

    Args:
        model: A shared model. It is not changed.

    Returns:
        A deep copy without plans, its ties intact.

    Raises:
        ModelChanged: If ties have come undone (call `retie_` first), or torch cannot copy the model.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = share_(net, Tie(rate=2))
        >>> small = fold(net)
        >>> small[0].weight is small[1].weight, type(small).__module__
        (True, 'torch.nn.modules.container')
    """
    model = unwrapped(model)
    refuse_untied(model)
    try:
        folded = copy.deepcopy(model)
    except RuntimeError as error:
        raise ModelChanged(
            f"{type(model).__name__} cannot be copied: {error}. Tensors that a forward pass left on a module, as the "
            "old weight_norm does, have to go first; torch.nn.utils.parametrizations has none."
        ) from error
    with edit.transaction(folded) as edits:
        _forget_plans(edits, folded)
    return folded


def refuse_untied(model: nn.Module) -> None:
    """Raise `ModelChanged` if a tie that a plan made has come undone."""
    model = plain(model)
    for owner, *others in planning.applied_ties(model):
        for other in others:
            if edit.parameter_at(model, other) is not edit.parameter_at(model, owner):
                raise ModelChanged(
                    f"'{other}' and '{owner}' were one parameter and no longer are: load_state_dict(assign=True) "
                    "and to_empty() untie without a word. Call retie_(model)."
                )


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: each slot once, decay on matrices and kernels only, nothing that is frozen.

    A slot that `r` layers read gets the sum of their gradients, as in the papers.

    Args:
        model: Any module, shared or not.
        weight_decay: Decay of tensors with two or more dimensions, at least 0; those with fewer get none: biases and
            most norms.

    Returns:
        One or two groups with `params`, `param_names` and `weight_decay`.

    Raises:
        SpecError: If the decay is negative or nothing in the model is trainable.

    Example:
        >>> [len(group["params"]) for group in param_groups(nn.Linear(2, 3), weight_decay=0.01)]
        [1, 1]
    """
    if not isinstance(weight_decay, int | float) or not 0 <= weight_decay < math.inf:
        raise SpecError(f"weight_decay={weight_decay!r}: need a finite number, 0 or more.")
    trainable = [site for site in sites(model) if site.tensor.requires_grad]
    if not trainable:
        raise SpecError(f"{type(model).__name__} has no trainable parameter: requires_grad is False for all.")
    groups = []
    for decay, chosen in (
        (weight_decay, [site for site in trainable if site.tensor.ndim >= 2]),
        (0.0, [site for site in trainable if site.tensor.ndim < 2]),
    ):
        if chosen:
            params, names = [site.tensor for site in chosen], [site.path for site in chosen]
            groups.append({"params": params, "param_names": names, "weight_decay": decay})
    return groups


def check(optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], model: nn.Module) -> None:
    """Refuse an optimizer that does not fit a model any more, as one that was made before sharing does not.

    Args:
        optimizer: A torch optimizer, a wrapper that holds one as `.optimizer`, or all of several that share the work.
        model: The model that it should train.

    Raises:
        OptimizerMismatch: Naming every entry that the model does not read (it trains nothing), every tensor with two
            entries (it would be stepped twice), and every trainable slot without an entry; so too every parameter
            whose like in another layer has one, as `unshare_` leaves them. A part of the model may stay out whole.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> check(torch.optim.SGD(net.parameters(), lr=0.1), net)
    """
    found = sites(model)
    read = {id(site.tensor): site for site in found}
    seen: dict[int, str] = {}
    problems = []
    for label, tensor in _entries(optimizer):
        if id(tensor) not in read:
            problems.append(f"{label} trains nothing: the model does not read it")
        elif id(tensor) in seen:
            problems.append(f"{label} trains '{read[id(tensor)].path}' a second time, after {seen[id(tensor)]}")
        seen.setdefault(id(tensor), label)
    slots = {owner for owner, *_ in planning.applied_ties(model)}
    stands = places(found)
    roles = {place.role for site in found if id(site.tensor) in seen and isinstance(place := stands[site.path], Place)}
    for site in found:
        if site.tensor.requires_grad and id(site.tensor) not in seen:
            place = stands[site.path]
            if site.path in slots:
                problems.append(f"slot '{site.path}' is in no group, so nothing trains it")
            elif isinstance(place, Place) and place.role in roles:
                problems.append(f"'{site.path}' is in no group, so nothing trains it, as it does other '{place.role}'")
    if problems:
        listed = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise OptimizerMismatch(
            f"The optimizer does not fit the model:\n  {listed}{more}\n"
            "Make the optimizer after sharing, from weightshare.param_groups(model, weight_decay)."
        )


def _entries(optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that one or several optimizers step, with a label that a user can find it by."""
    several = optimizer if isinstance(optimizer, Sequence) else [optimizer]
    for position, one in enumerate(several):
        inner = getattr(one, "optimizer", None)
        lead = f"optimizer {position}, " if len(several) > 1 else ""
        for number, group in enumerate((inner if isinstance(inner, torch.optim.Optimizer) else one).param_groups):
            names = group.get("param_names", [])
            for entry, tensor in enumerate(group["params"]):
                name = f" ('{names[entry]}')" if entry < len(names) else ""
                yield f"{lead}group {number}, entry {entry}{name}, shape {tuple(tensor.shape)}", tensor


def _forget_plans(edits: edit.Transaction, model: nn.Module) -> None:
    for path in {path for path, _ in planning.applied_plans(model)}:
        edits.annotate(planning.APPLIED, None, path)
