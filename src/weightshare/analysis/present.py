"""What is shared in a model already, by whomever, and what is unusual about its weights: by name, nothing guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import re
from typing import Any

from torch import nn

from weightshare._table import run_text
from weightshare.decoding import Decoded
from weightshare.generating import Banked
from weightshare.planning import applied_plans, from_root
from weightshare.space.layer import LocalLayer
from weightshare.surgery.compare import overlap
from weightshare.surgery.parametrized import foreign_parametrizations, parametrization
from weightshare.surgery.quantised import packed_layers, quantised
from weightshare.surgery.sites import Site
from weightshare.surgery.watch import run, watching


@dataclass(frozen=True)
class Already:
    """One thing of a model that is shared, or not plain.

    Args:
        kind: What it is, in a word or two.
        names: Paths, the first one that of the owner where there is one.
        meaning: What that means for sharing.
    """

    kind: str
    names: tuple[str, ...]
    meaning: str


def already(model: nn.Module, model_sites: Sequence[Site], calls: Mapping[str, int] | None = None) -> list[Already]:
    """List what is shared already, and what is unusual.

    Args:
        model: Any module.
        model_sites: Every site of it.
        calls: How often each module ran in one pass, from `calls_of`.

    Returns:
        Plans of ours first, then other ties, then modules that run several times, then weights that are no plain ones.
    """
    found, planned = [], set[str]()
    for at, plan in applied_plans(model):
        for group in plan.groups:
            items = tuple(from_root(at, path) for path in group.items)
            if isinstance(group, Decoded | Banked):
                found.append(
                    Already("made by a plan", items, f"{plan.spec!r}: {group.stored_after:,} numbers are stored")
                )
            else:
                slots = f"{len(items)} layers read {group.stored_slots} slots"
                found.append(Already("tied by a plan", items, f"{plan.spec!r}: {slots}"))
            planned |= {*items}
    twice = _modules_twice(model)
    found += [Already("one module", paths, "registered under several names: it is stored once") for paths in twice]
    inside = tuple(f"{path}." for paths in twice for path in paths)
    for site in model_sites:
        if site.aliases and not planned.intersection(site.names) and not site.path.startswith(inside):
            found.append(Already("one parameter", site.names, "stored once already; a plan leaves it out"))
    pair = overlap({site.path: site.tensor for site in model_sites})
    if pair is not None:
        found.append(
            Already("same memory", pair, "two parameters, one memory: plans refuse it; make them one, or clone")
        )
    found += _run_again(model, calls or {})
    return [*found, *_unusual(model, model_sites)]


SHARED = ("tied by a plan", "made by a plan", "one module", "one parameter", "runs several times")
"""Kinds of `Already` by which layers are shared across depth, or may be."""


def told(found: Sequence[Already]) -> list[tuple[str, str, str]]:
    """What to print: kind, where and meaning, things of one kind and meaning in one row.

    Example:
        >>> pairs = [Already("one parameter", (f"blocks.{i}.fc", f"blocks.{i + 1}.fc"), "stored once") for i in (0, 2)]
        >>> told(pairs)
        [('one parameter', 'blocks.*.fc', '2 groups of 2 paths: stored once')]
    """
    rows: dict[tuple[str, str], list[Already]] = {}
    for one in found:
        rows.setdefault((one.kind, one.meaning), []).append(one)
    return [(kind, *_one_row(alike)) for (kind, _), alike in rows.items()]


def _one_row(alike: Sequence[Already]) -> tuple[str, str]:
    if len(alike) == 1:
        names = alike[0].names
        return (_role(names) if len(names) > 3 else "") or run_text(names, 6), alike[0].meaning
    where = dict.fromkeys(_role(one.names) or " = ".join(one.names) for one in alike)
    lengths = {len(one.names) for one in alike}
    times = (
        f"{len(alike)} groups of {lengths.pop()} paths: "
        if len(lengths) == 1 and lengths != {1}
        else f"{len(alike)} ×: "
    )
    return run_text(list(where), 6), times + alike[0].meaning


def _role(names: Sequence[str]) -> str:
    """Paths that differ in one number alone as one, with `*` for it; or nothing."""
    parts = [name.split(".") for name in names]
    if len(names) < 2 or len({len(one) for one in parts}) > 1:
        return ""
    differ = [at for at, column in enumerate(zip(*parts, strict=True)) if len({*column}) > 1]
    if len(differ) != 1:
        return ""
    starred = {re.sub(r"\d+", "*", one[differ[0]]) for one in parts}
    return ".".join([*parts[0][: differ[0]], starred.pop(), *parts[0][differ[0] + 1 :]]) if len(starred) == 1 else ""


def calls_of(model: nn.Module, example_input: Any) -> dict[str, int]:
    """How often each module that holds weights runs in one pass, in evaluation mode.

    Raises:
        SpecError: If the model cannot run on the input.
    """
    calls: dict[str, int] = {}

    def note(path: str, *_: object) -> None:
        calls[path] = calls.get(path, 0) + 1

    layers = {path: one for path, one in model.named_modules() if path and any(True for _ in one.parameters())}
    with watching(model, layers, note):
        run(model, example_input)
    return calls


def _modules_twice(model: nn.Module) -> list[tuple[str, ...]]:
    """Paths of each module with weights that is registered under several names; what is inside one is not listed."""
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if any(True for _ in module.parameters()):
            paths.setdefault(id(module), []).append(path)
    several = [tuple(names) for names in paths.values() if len(names) > 1]
    inner = {path for names in several for path in names}
    return [names for names in several if not any(_parents(path) & inner for path in names)]


def _run_again(model: nn.Module, calls: Mapping[str, int]) -> list[Already]:
    """Modules that run more often than they are registered: layers in a loop. The outermost of each."""
    names: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        names[id(module)] = names.get(id(module), 0) + 1
    looped = {path: times for path, times in calls.items() if times > names[id(model.get_submodule(path))]}
    return [
        Already("runs several times", (path,), f"runs {times} times in a pass, with the same weights each time")
        for path, times in looped.items()
        if not any(looped.get(parent) == times for parent in _parents(path))
    ]


def _unusual(model: nn.Module, model_sites: Sequence[Site]) -> list[Already]:
    found = []
    for path, module in model.named_modules():
        for name in foreign_parametrizations(module):
            makers = ", ".join(type(one).__name__ for one in parametrization(module, name))
            names = (f"{path}.{name}" if path else name,)
            found.append(
                Already("parametrized", names, f"made by {makers} at every read; what it is made from can be tied")
            )
    packed = packed_layers(model) | {site.path: reason for site in model_sites if (reason := quantised(site.tensor))}
    found += [Already("quantised", (path,), reason) for path, reason in packed.items()]
    meta = tuple(site.path for site in model_sites if site.tensor.is_meta)
    frozen = tuple(site.path for site in model_sites if not site.tensor.requires_grad and not quantised(site.tensor))
    local = tuple(path or "the model" for path, module in model.named_modules() if isinstance(module, LocalLayer))
    for kind, names, meaning in (
        ("local", local, "a kernel for each position; they fold into convolutions"),
        ("on meta", meta, "no numbers yet: it can be planned for, and has to be loaded before a plan is applied"),
        ("frozen", frozen, "not trained: one slot holds frozen layers or trained ones, never both"),
    ):
        found += [Already(kind, names, meaning)] if names else []
    return found


def _parents(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}
