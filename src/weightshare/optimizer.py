"""Optimizers and shared weights: parameter groups in which each slot stands once, and a check of those that exist.

An optimizer knows tensors, not names. One that was made before sharing goes on stepping tensors that nothing reads; one
that was given a tied tensor twice steps it twice. Neither says a word, so `check` does.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
import math
from typing import Any, Literal

import torch
from torch import nn

from weightshare import planning
from weightshare._typing import Where
from weightshare.errors import OptimizerMismatch, SpecError
from weightshare.generating import Bank, readers, refuse_foreign
from weightshare.surgery.blocks import Place, in_norm, places
from weightshare.surgery.derived import HOLDER
from weightshare.surgery.layers import layer_numbers
from weightshare.surgery.sites import Site, describe, plain, select, sites


def param_groups(
    model: nn.Module,
    weight_decay: float,
    lr_scale: Literal["sum", "mean"] | None = None,
    layer_decay: float | None = None,
    lr: float | None = None,
    no_decay: Where = None,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: each slot once, decay where it belongs, nothing that is frozen.

    Without decay: biases, all that norm layers hold, what the model lists in `no_weight_decay()` as timm's models do,
    anything else with at most one dimension longer than 1 (gains, tokens, layer scales), and what `no_decay` names.

    Args:
        model: Any module, shared or not.
        weight_decay: Decay of all others, at least 0.
        lr_scale: A slot that `r` layers read gets the `"sum"` of their gradients, as in the papers; so it does with
            `None`. `"mean"` steps it by their mean: its learning rate is divided by `r` and its decay multiplied by
            `r`, which is exact for SGD and leaves the shrinking by AdamW as it was. (Adam's own step does not depend on
            the scale of a gradient.)
        layer_decay: Learning rates shrink by this factor, above 0 and at most 1, from each layer to the one before, as
            in BEiT and timm. Models of timm say themselves what their layers are; of others the stem is the first,
            blocks follow in order, a norm after them belongs to the last block, the rest is the head, at scale 1. A
            slot, and any parameter with several names, gets the mean of its readers' scales.
        lr: Learning rate at scale 1. With it, groups hold a scaled `lr`, which every optimizer and every scheduler of
            torch keeps. Without it, they hold timm's `lr_scale` where scales differ from 1: timm's schedulers and
            `weightshare train` multiply it in, torch's do not read it.
        no_decay: Further parameters without decay, by the rule of `plan`'s `where`; `None` is none.

    Returns:
        One group for each pair of decay and scale, with `params`, `param_names`, `weight_decay`, and `lr` or `lr_scale`
        where there is one. What single layers add to a shared weight (`Tie(own=...)`, learned weights of a fusion) is
        in groups of its own, without decay, with `own` set: adapters often want another learning rate or optimizer.

    Raises:
        SpecError: If a number is out of its range, nothing in the model is trainable, or there are no layers to count.
        NoMatch: If `no_decay` matches nothing.
        ModelChanged: If the model is a part of a shared one, and reads a bank that lies outside it.

    Source: the sum is that of Lin 2022 and Savarese 2019; layer-wise decay is that of Bao 2021 (BEiT).

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> [(len(group["params"]), group["weight_decay"]) for group in param_groups(net, weight_decay=0.01)]
        [(4, 0.01), (4, 0.0)]
        >>> [group["lr"] for group in param_groups(net, weight_decay=0.0, layer_decay=0.5, lr=0.8)]
        [0.1, 0.2, 0.4, 0.8]
    """
    _expect_number("weight_decay", weight_decay, "0 or more", lambda value: value >= 0)
    _expect_number("layer_decay", layer_decay, "above 0 and at most 1, or None", lambda value: 0 < value <= 1)
    _expect_number("lr", lr, "0 or more, or None", lambda value: value >= 0)
    if lr_scale not in (None, "sum", "mean"):
        raise SpecError(f"lr_scale={lr_scale!r}: need 'sum' or 'mean' of the gradients of a slot's readers, or None.")
    model = plain(model)
    refuse_foreign(model)
    found = sites(model)
    trainable = [site for site in found if site.tensor.requires_grad]
    if not trainable:
        raise SpecError(f"{type(model).__name__} has no trainable parameter: requires_grad is False for all.")
    undecayed = _without_decay(model, found)
    if no_decay is not None:
        undecayed |= {site.path for site in select(found, no_decay)}
    shared = {tie[0]: len(tie) for tie in planning.applied_ties(model)} if lr_scale == "mean" else {}
    layer_scales = _layer_scales(model, layer_decay)
    own = _own(model)
    grouped: dict[tuple[float, float, bool], list[Site]] = defaultdict(list)
    for site in trainable:
        r = max((shared.get(name, 1) for name in site.names), default=1)
        decay = 0.0 if site.path in undecayed else float(weight_decay) * r
        grouped[decay, layer_scales[site.path] / r, site.path in own].append(site)
    scaled = any(scale != 1 for _, scale, _ in grouped)
    groups = []
    for (decay, scale, of_layers), members in grouped.items():
        group = {
            "params": [site.tensor for site in members],
            "param_names": [site.path for site in members],
            "weight_decay": decay,
        }
        rate = {"lr_scale": scale} if lr is None else {"lr": lr * scale}
        groups.append(group | (rate if scaled or lr is not None else {}) | ({"own": True} if of_layers else {}))
    return groups


def muon_groups(
    groups: Sequence[dict[str, Any]], model: nn.Module, where: Where = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split parameter groups in two: matrices, for an optimizer such as Muon, and all others, for AdamW.

    Muon makes the update of a matrix orthogonal, which means something only where a matrix is a map that a hidden layer
    applies. Coefficients, templates, codebooks, adapters and learned fusions are none, even where they have two
    dimensions: what a bank or a parametrization makes weights from goes to the others, and so do embeddings.

    Args:
        groups: From `param_groups(model, ...)`.
        model: The model that they are of.
        where: Which matrices, by the rule of `plan`; `None` is those inside repeated blocks, so that the stem, the
            embeddings and the head go to the others.

    Returns:
        Groups of the matrices, and groups of the others; as given, but shorter, and none of them empty.

    Raises:
        SpecError: If the groups are not of this model, there is no matrix, or `where` names what is none.
        NoMatch: If `where` matches nothing.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 5))
        >>> matrices, others = muon_groups(param_groups(net, weight_decay=0.1), net)
        >>> [group["param_names"] for group in matrices]
        [['1.weight', '2.weight']]
        >>> muon = torch.optim.Muon(matrices, lr=0.02)
        >>> adamw = torch.optim.AdamW(others, lr=1e-3)
        >>> check([muon, adamw], net)
    """
    model = plain(model)
    found = sites(model)
    stands = places(found)
    able = {site.path: site for site in found if _is_map(site)}
    if where is None:
        chosen = {id(site.tensor) for path, site in able.items() if isinstance(stands[path], Place)}
    else:
        named = select(found, where)
        wrong = next((site for site in named if site.path not in able), None)
        if wrong is not None:
            raise SpecError(
                f"where={describe(where)} names '{wrong.path}', of shape {wrong.shape}, which is no matrix that a "
                "layer applies as it is. Leave it out of the pattern: it goes to the others."
            )
        chosen = {id(site.tensor) for site in named}
    held = {id(tensor) for group in groups for tensor in group["params"]}
    if not held <= {id(site.tensor) for site in found}:
        raise SpecError(f"The groups hold parameters that this {type(model).__name__} does not read: make them of it.")
    if not chosen & held:
        raise SpecError(
            f"{type(model).__name__} has no trainable matrix in a repeated block. Name them: where=['fc1.weight']."
        )
    return _only(groups, lambda tensor: id(tensor) in chosen), _only(groups, lambda tensor: id(tensor) not in chosen)


def _only(groups: Sequence[dict[str, Any]], holds: Callable[[torch.Tensor], bool]) -> list[dict[str, Any]]:
    """The groups with those entries alone that a test holds for, and their names."""
    shorter = []
    for group in groups:
        kept = [number for number, tensor in enumerate(group["params"]) if holds(tensor)]
        lists = {key: [group[key][number] for number in kept] for key in ("params", "param_names") if key in group}
        if kept:
            shorter.append({**group, **lists})
    return shorter


def _is_map(site: Site) -> bool:
    """Whether a parameter is a matrix that a layer applies as it is, and no table of rows."""
    made_from = {"parametrizations", HOLDER}
    hidden = any(made_from & set(name.split(".")) for name in site.names)
    table = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in _holders(site))
    return site.tensor.ndim == 2 and not hidden and not table


def _holders(site: Site) -> list[nn.Module]:
    """The modules that hold a parameter, one for each of its names."""
    modules = dict(site.modules)
    return [modules.get(name.rpartition(".")[0], site.holder) for name in site.names]


def check(optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], model: nn.Module) -> None:
    """Refuse an optimizer that does not fit a model any more, as one that was made before sharing does not.

    Args:
        optimizer: A torch optimizer, a wrapper that holds one as `.optimizer`, or all of several that share the work.
        model: The model that it should train.

    Raises:
        OptimizerMismatch: Naming every entry that the model does not read (it trains nothing), every tensor with two
            entries (it would be stepped twice), and every trainable slot without an entry; so too every parameter
            whose like in another layer has one, as `unshare_` leaves them. A part of the model may stay out whole.
        ModelChanged: If ties of the model have come undone, so that an optimizer trains copies apart.
        SpecError: If the first argument is no optimizer and holds none, or the second is no model.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> check(torch.optim.SGD(net.parameters(), lr=0.1), net)
    """
    if isinstance(optimizer, nn.Module):
        got = f"check({type(optimizer).__name__}, {type(model).__name__})"
        raise SpecError(f"{got}: the optimizer comes first, then the model: check(optimizer, model).")
    found = sites(model)
    model = plain(model)
    refuse_foreign(model)
    planning.refuse_undone(model)
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
    banked = [path for path, module in model.named_modules() if isinstance(module, Bank)]
    roles = {place.role for site in found if id(site.tensor) in seen and isinstance(place := stands[site.path], Place)}
    for site in found:
        if site.tensor.requires_grad and id(site.tensor) not in seen:
            place = stands[site.path]
            if site.path in slots or any(site.path.startswith(f"{path}.") for path in banked):
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
        held = inner if isinstance(inner, torch.optim.Optimizer) else one
        if not isinstance(held, torch.optim.Optimizer):
            raise SpecError(f"Cannot check {type(one).__name__}: need a torch optimizer, or what holds one.")
        lead = f"optimizer {position}, " if len(several) > 1 else ""
        for number, group in enumerate(held.param_groups):
            names = group.get("param_names", [])
            for entry, tensor in enumerate(group["params"]):
                name = f" ('{names[entry]}')" if entry < len(names) else ""
                yield f"{lead}group {number}, entry {entry}{name}, shape {tuple(tensor.shape)}", tensor


def _without_decay(model: nn.Module, found: Sequence[Site]) -> set[str]:
    """Paths of parameters that stand for a shift, a gain or a token rather than for a map."""
    listed = _listed_by_model(model)
    chosen = set()
    for site in found:
        last = [name.rpartition(".")[2] for name in map(_as_read, site.names)]
        norm = in_norm(site) or ("Norm" in type(model).__name__ and "." not in site.path)
        bias = any(name == "bias" or name.startswith("bias_") or name.endswith("_bias") for name in last)
        vector = sum(length > 1 for length in site.shape) <= 1
        # A layer with one output, or with one input, has a weight all the same.
        layer = site.tensor.ndim >= 2 and any(name.startswith("weight") for name in last)
        if norm or bias or (vector and not layer) or not listed.isdisjoint(site.names):
            chosen.add(site.path)
    return chosen


def _as_read(path: str) -> str:
    """The path of the weight that a parametrization makes of a stored one, where it makes it of that alone."""
    parent, _, name = path.rpartition(".")
    above, _, made = parent.rpartition(".")
    return made if name == "original" and above.rpartition(".")[2] == "parametrizations" else path


def _listed_by_model(model: nn.Module) -> set[str]:
    """What `no_weight_decay()` of a model, or of a part of it, names: timm's way of saying so."""
    listed = set()
    for path, module in model.named_modules():
        lister: Any = getattr(type(module), "no_weight_decay", None)
        if callable(lister):
            names: Any = lister(module)
            listed |= {planning.from_root(path, str(name)) for name in names}
    return listed


def _own(model: nn.Module) -> set[str]:
    """Paths of what banks have for single layers."""
    banks = [(path, module) for path, module in model.named_modules() if isinstance(module, Bank)]
    return {planning.from_root(path, name) for path, bank in banks for name in bank.own_names()}


def _layer_scales(model: nn.Module, layer_decay: float | None) -> Mapping[str, float]:
    if layer_decay is None:
        return defaultdict(lambda: 1.0)
    numbers = layer_numbers(model)
    if not numbers:
        raise SpecError(f"layer_decay={layer_decay!r}: {type(model).__name__} has no blocks that could be counted.")
    last = max(number for of_site in numbers.values() for number in of_site)
    scales = {
        path: sum(layer_decay ** (last - number) for number in of_site) / len(of_site)
        for path, of_site in numbers.items()
    }
    read = [(source, path) for path, source in readers(model).items()]
    for at, bank in ((path, module) for path, module in model.named_modules() if isinstance(module, Bank)):
        of_layer = {source.layer: scales.get(path, 1.0) for source, path in read if source.bank is bank}
        for name, _ in bank.named_parameters():
            layers = bank.layers_of(name)
            scales[planning.from_root(at, name)] = sum(of_layer.get(layer, 1.0) for layer in layers) / len(layers)
    return scales


def _expect_number(name: str, value: object, needed: str, valid: Any) -> None:
    if value is None and needed.endswith("None"):
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not valid(value):
        raise SpecError(f"{name}={value!r}: need a finite number, {needed}.")
