"""Optimizer state over a change of sharing: what persists is kept, what fuses is fused, the rest is fresh and named.

    before = remember(optimizer, model)
    ws.share_(model, ws.Tie(rate=2))                     # or unshare_, or model = ws.fold(model)
    optimizer = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=1e-3)
    print(carry_(optimizer, before, model))

**What fusing means.** A slot that `r` layers read gets the sum of their gradients, `g = Σ g_i`. A running mean of
gradients is linear, so that of the slot is the sum of theirs, exactly: `m = Σ m_i`. A running mean of squares is not;
`(Σ g_i)² ≤ r·Σ g_i²` bounds it, so `v = r·Σ v_i`, which is exact where the readers' gradients were equal, and else
makes the first steps shorter, never longer: `|m|/√v` stays within what single layers had. (Means of both would step up
to `r` times too far until `v` has caught up.) Taken apart, each reader gets an equal part, `m/r` and `v/r²`: sharing
again gives the same state back.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import OptimizerMismatch, SpecError
from weightshare.optimizer import check
from weightshare.surgery.sites import Site, sites

State = dict[str, Any]


Weights = Callable[[Sequence[int], Sequence[int]], list[float]]
"""From how many readers come along from each old parameter, and how many each had, to the factors of a sum."""


def _linear(own: Sequence[int], readers: Sequence[int]) -> list[float]:
    return [n / r for n, r in zip(own, readers, strict=True)]


def _square(own: Sequence[int], readers: Sequence[int]) -> list[float]:
    return [sum(own) * n / r**2 for n, r in zip(own, readers, strict=True)]


def _of_steps(own: Sequence[int], readers: Sequence[int]) -> list[float]:
    return [n / sum(own) for n in own]


_RULES: dict[str, Weights] = {
    "exp_avg": _linear,
    "grad_avg": _linear,
    "momentum_buffer": _linear,
    "exp_inf": _linear,  # |Σ g_i| ≤ Σ |g_i|
    "exp_avg_sq": _square,
    "max_exp_avg_sq": _square,
    "square_avg": _square,
    "sum": _square,
    "acc_delta": _of_steps,
}
"""By the names that torch's optimizers use. Beside these there is `step`, of several the least: Adam starts short."""


@dataclass(frozen=True)
class Remembered:
    """The state of an optimizer by the names of what it stepped. Made by `remember`; holds the tensors, no copies.

    Args:
        kind: Class of the optimizer.
        states: For each path the state of its parameter.
        owners: For each path a number that paths of one parameter have in common.
        shapes: Of the parameters, by path.
    """

    kind: type[torch.optim.Optimizer]
    states: Mapping[str, State]
    owners: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    def readers(self, owner: int) -> int:
        """How many paths read a parameter."""
        return sum(other == owner for other in self.owners.values())


@dataclass(frozen=True)
class Carried:
    """What `carry_` did, by path of the new parameters; print it.

    Args:
        kept: As they were.
        fused: From those of several parameters.
        split: A part of what several paths had in common.
        reset: Fresh, each with the reason.
    """

    kept: tuple[str, ...]
    fused: tuple[str, ...]
    split: tuple[str, ...]
    reset: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{name}, {len(paths)}: {', '.join(paths)}" for name, paths in self._named if paths]
        by_reason: dict[str, list[str]] = {}
        for path, reason in self.reset.items():
            by_reason.setdefault(reason, []).append(path)
        lines += [f"reset, {len(paths)}: {', '.join(paths)}: {reason}" for reason, paths in by_reason.items()]
        return "\n".join(lines)

    @property
    def _named(self) -> list[tuple[str, tuple[str, ...]]]:
        return [("kept", self.kept), ("fused", self.fused), ("split", self.split)]


def remember(optimizer: torch.optim.Optimizer, model: nn.Module) -> Remembered:
    """Note the state of an optimizer by name, before the sharing of its model changes.

    Args:
        optimizer: A torch optimizer that fits the model.
        model: What it trains.

    Raises:
        OptimizerMismatch: If the optimizer does not fit the model: then its state is of other parameters.
    """
    check(optimizer, model)
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    found = [(number, site) for number, site in enumerate(sites(model)) if id(site.tensor) in held]
    named = [(name, number, site) for number, site in found for name in site.names]
    return Remembered(
        type(optimizer),
        states={name: _state(optimizer, site.tensor) for name, _, site in named},
        owners={name: number for name, number, _ in named},
        shapes={name: site.shape for name, _, site in named},
    )


def carry_(optimizer: torch.optim.Optimizer, before: Remembered, model: nn.Module) -> Carried:
    """Give a new optimizer the state of the one before the sharing changed, as far as it still means something.

    Learning rates, schedulers and attached handles are not carried: make them anew.

    Args:
        optimizer: Made for the model as it is now, of the class of the one before. It has made no step.
        before: From `remember`.
        model: What it trains, after `share_`, `unshare_`, `retie_`, `fold`, or any change of yours.

    Returns:
        What became of each parameter's state: a slot read by the same layers keeps its own; one read by more fuses
        theirs; one read by fewer gets its part. Weights of a bank, a codebook or another shape start afresh.

    Raises:
        OptimizerMismatch: If the optimizer is of another class, does not fit the model, or has stepped.
        SpecError: If it keeps state that is of no single parameter, as LBFGS does.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        >>> old = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> net(torch.ones(2, 3)).sum().backward()
        >>> old.step()
        >>> before = remember(old, net)
        >>> net[1].weight = net[0].weight
        >>> new = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> print(carry_(new, before, net))
        kept, 2: 0.bias, 1.bias
        fused, 1: 0.weight
    """
    _expect_fresh(optimizer, before)
    check(optimizer, model)
    entries = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    at = {id(site.tensor): site for site in sites(model)}
    fate: dict[str, list[str]] = {"kept": [], "fused": [], "split": []}
    reset: dict[str, str] = {}
    states: dict[int, State] = {}
    for number, tensor in enumerate(entries):
        site = at[id(tensor)]
        moved = _moved(site, before)
        if isinstance(moved, str):
            reset[site.path], states[number] = moved, dict(optimizer.state.get(tensor, {}))
        else:
            kind, states[number] = moved
            fate[kind].append(site.path)
    # Torch's own door puts each entry on the device and into the dtype that this kind of optimizer wants.
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return Carried(tuple(fate["kept"]), tuple(fate["fused"]), tuple(fate["split"]), reset)


def _state(optimizer: torch.optim.Optimizer, tensor: Tensor) -> State:
    return {key: value for key, value in optimizer.state.get(tensor, {}).items() if value is not None}


def _expect_fresh(optimizer: torch.optim.Optimizer, before: Remembered) -> None:
    if type(optimizer) is not before.kind:
        raise OptimizerMismatch(
            f"The state is of {before.kind.__name__}, the optimizer is {type(optimizer).__name__}: the numbers of one "
            "mean nothing to the other. Make it of the same class, or start afresh."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SpecError("LBFGS keeps one history for all parameters at once, which no change of them leaves valid.")
    if any(float(state.get("step", 1)) for state in optimizer.state.values()):  # Adagrad has state before its first
        raise OptimizerMismatch("The new optimizer has stepped already: carry the state before its first step.")


def _moved(site: Site, before: Remembered) -> tuple[str, State] | str:
    """What became of a parameter's state and the state, or why it starts afresh."""
    if any(name not in before.states for name in site.names):
        return "there was no parameter of this name"
    if any(before.shapes[name] != site.shape for name in site.names):
        return "it had another shape"
    come = Counter(before.owners[name] for name in site.names)
    olds = [next(before.states[name] for name in site.names if before.owners[name] == owner) for owner in come]
    if not all(olds):
        return "there was no state: no step had been made, or none with all that it fuses"
    own, readers = list(come.values()), [before.readers(owner) for owner in come]
    if own == readers and len(olds) == 1:
        return "kept", {key: _laid(value, site.tensor) for key, value in olds[0].items()}
    rules = dict(_RULES)
    if before.kind is torch.optim.RMSprop:
        rules["momentum_buffer"] = _of_steps  # gradients are divided by their root before
    state: State = {}
    for key in olds[0]:
        if key not in rules and key != "step":
            return f"what '{key}' of {before.kind.__name__} becomes when readers change is not known"
        values = [old[key] for old in olds]
        if key == "step":
            state[key] = _laid(min(values), site.tensor)
        else:
            weighted = [value * weight for value, weight in zip(values, rules[key](own, readers), strict=True)]
            state[key] = _laid(sum(weighted[1:], weighted[0]), site.tensor)
    return ("split" if len(olds) == 1 else "fused"), state


def _laid(value: Any, like: Tensor) -> Any:
    """A copy that lies in memory as the parameter does: fused optimizers go through both side by side."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != like.shape:
        return value.detach().clone()
    return torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value.detach())
