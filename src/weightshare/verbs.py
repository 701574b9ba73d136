"""The verbs: what a user does to a model. The only module that knows every axis.

`plan → apply_ → train → fold`, with `share_` for the first two and `unshare_` for the way back. A trailing `_` means
that the first argument is changed.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from weightshare import planning
from weightshare._typing import Where
from weightshare.generating import Banked, bank_of, refuse_foreign
from weightshare.planning import Plan
from weightshare.sharing import Spec
from weightshare.space.convert import LocalPlan, plan_local
from weightshare.space.convert import fold_ as fold_local_
from weightshare.surgery import edit
from weightshare.surgery.copies import copied
from weightshare.surgery.quantised import refuse_wrapped
from weightshare.surgery.shards import refuse_spread
from weightshare.surgery.sites import plain, unwrapped


def plan(model: nn.Module, spec: Spec, where: Where = None) -> Plan:
    """Say what sharing would do to a model, without doing it.

    Args:
        model: Any module, on any device; on `meta` it can be planned for, not shared.
        spec: How to share, such as `Tie(rate=2)`.
        where: Which parameters: a glob on the path of a parameter or of a module above it, where `*` crosses dots; a
            list of globs, in which `"!*norm*"` takes away again what it matches of those before it; a module type; a
            predicate on `Site`; or `None` for all that the spec fits.

    Returns:
        A `Plan`: print it, compare it, write it as JSON, apply it. What the spec warns of is in `notes` and printed.

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


def share_(model: nn.Module, spec: Spec, where: Where = None, batches: Iterable[Any] | None = None) -> Plan:
    """Plan, and apply the plan, all or nothing.

    Args:
        model: The module to change.
        spec: As for `plan`.
        where: As for `plan`.
        batches: As for `Plan.apply_`: for fusions that read activations.

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
    made.apply_(model, batches)
    return made


def unshare_(model: nn.Module) -> None:
    """Give every site that a plan shared a parameter of its own again, with the numbers that it read.

    Outputs are as before; training then moves the copies apart. Ties that are not ours (an embedding and a head) stay.
    The first reader keeps the slot's parameter object; an optimizer needs the new ones (`check` says which).

    Args:
        model: A model that `share_` or `Plan.apply_` changed, and not a part of it, since the plan is kept where it was
            applied; a model without plans, as `fold` gives one, is left as it is.

    Raises:
        ModelChanged: If a path that a plan shares is gone, or lies under a wrapper now. The model is then as it was.
        SpecError: If the parameters are spread over processes.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = share_(net, Tie(rate=2))
        >>> unshare_(net)
        >>> net[0].weight is net[1].weight, torch.equal(net[0].weight, net[1].weight)
        (False, True)
    """
    model = plain(model)
    refuse_spread(model, "unshare_")
    with edit.transaction(model) as edits:
        for at, applied in reversed(list(planning.applied_plans(model))):
            for group in reversed(applied.groups):
                applied.spec.unshare_(edits, group.under(at))
        planning.forget(edits, model)


def retie_(model: nn.Module, compare: bool = True) -> list[str]:
    """Tie again what plans tied and something untied: `to_empty()` does so silently, and so does setting a parameter.

    `load_state_dict`, also with `assign=True`, ties again by itself.

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
        >>> _ = net.to("meta").to_empty(device="cpu")
        >>> retie_(net, compare=False)
        ['1.weight']
    """
    model = plain(model)
    _refuse_wrapped_ties(model)
    with edit.transaction(model) as edits:
        return edit.tie(edits, planning.applied_ties(model), compare)


def localize_(
    model: nn.Module, example_input: Any, where: Where = None, keep_first: int = 0, eps: float = 0.0
) -> LocalPlan:
    """Give each position of convolutions a kernel of its own: the other way than sharing. Outputs stay as they are.

    Args:
        model: Any network with convolutions of torch, of 1 to 3 dimensions, transposed or not. It is run once on the
            example, in evaluation mode, to see the size of each convolution's input; later inputs need that size.
        example_input: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        where: Which convolutions, by the rule of `plan`; `None` is all that can become local.
        keep_first: How many of these, in the order in which they run, stay convolutions.
        eps: Noise on the copies, relative to the standard deviation of each kernel's numbers; see
            `LocallyConnected2d.from_conv`.

    Returns:
        The plan that was applied; `weightshare.space.convert.plan_local` makes it alone.

    Raises:
        NoMatch: If the pattern matches no convolution that can become local.
        AlreadyShared: If it names one whose weight is read elsewhere too.
        SpecError: If it names one that runs at several sizes, or is no plain convolution of torch, or the model cannot
            run on the example. The model is then as it was.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3))
        >>> plan = localize_(net, torch.zeros(1, 1, 7, 7), keep_first=1)
        >>> plan.stored_before, plan.stored_after, type(net[2]).__name__
        (77, 1373, 'LocallyConnected2d')
        >>> type(fold(net)[2]).__name__
        'Conv2d'
    """
    made = plan_local(model, example_input, where, keep_first, eps)
    made.apply_(model)
    return made


def fold(model: nn.Module, tolerance: float = 1e-3) -> nn.Module:
    """A new plain module that computes the same and stores only what must be stored.

    Hard sharing folds exactly: layers that share hold one `nn.Parameter` under several names, which is all that torch
    needs. Local layers become convolutions: equal kernels are copied, others become their mean, and the error that it
    makes is what `plan_fold` says before. The result has torch's classes (and the model's own) only, and no trace of
    plans.

    Args:
        model: A shared model, or one with local layers. It is not changed.
        tolerance: How far the kernels of a local layer may be from their mean, relative to it; `math.inf` folds in any
            case.

    Returns:
        A deep copy without plans, its ties intact.

    Raises:
        ModelChanged: If ties have come undone (call `retie_` first), kernels differ by more than the tolerance, or
            torch cannot copy the model.
        SpecError: If the tolerance is no number of at least 0, or the parameters are spread over processes.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = share_(net, Tie(rate=2))
        >>> small = fold(net)
        >>> small[0].weight is small[1].weight, type(small).__module__
        (True, 'torch.nn.modules.container')
    """
    model = unwrapped(model)
    refuse_spread(model, "fold")
    refuse_untied(model)
    folded = copied(model)
    with edit.transaction(folded) as edits:
        for at, applied in reversed(list(planning.applied_plans(folded))):
            for group in reversed(applied.groups):
                applied.spec.fold_(edits, group.under(at))
        planning.forget(edits, folded)
        return fold_local_(edits, tolerance)


def refuse_untied(model: nn.Module) -> None:
    """Raise `ModelChanged` if a tie of a plan has come undone, or a layer reads its bank no more, or one elsewhere."""
    model = plain(model)
    refuse_foreign(model)
    for at, applied in planning.applied_plans(model):
        for group in applied.groups:
            if isinstance(group, Banked):
                bank_of(model, group.under(at).items)
    _refuse_wrapped_ties(model)
    planning.refuse_undone(model)


def _refuse_wrapped_ties(model: nn.Module) -> None:
    # A slot of one reader is tied to nothing: something else, such as a codebook, may make it since.
    paths = [path for tie in planning.applied_ties(model) if len(tie) > 1 for path in tie]
    refuse_wrapped([(path, edit.parameter_at(model, path)) for path in paths], "be tied or folded")
