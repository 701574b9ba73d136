"""What could be stored instead: along each axis the specs that fit a model, each with the numbers of its real plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import re
from typing import Any
import warnings

from torch import nn

from weightshare._typing import Where
from weightshare.analysis.file_size import file_size
from weightshare.analysis.present import SHARED, Already, told
from weightshare.decoding import Clusters
from weightshare.depth.fuse import mean
from weightshare.depth.templates import Templates
from weightshare.depth.tie import Tie
from weightshare.errors import SharingError, SharingWarning
from weightshare.planning import Plan, make_plan
from weightshare.sharing import Group, Spec
from weightshare.space.convert import plan_local
from weightshare.space.fold import plan_fold
from weightshare.space.layer import LocalLayer
from weightshare.surgery.blocks import Place, blocks_glob, in_norm, places
from weightshare.surgery.count import count
from weightshare.surgery.quantised import quantised
from weightshare.surgery.sites import Site, select
from weightshare.values.choice import trained_weights
from weightshare.values.codebook import Codebook

RATES = (2, 3, 4)
VALUES = (16, 256)
NORMS = ("*norm*", "*Norm*")
"""Patterns that are tried for leaving norms out, before those of single layers."""


@dataclass(frozen=True)
class Choice:
    """One thing that can be done to a model, and what it would store then.

    Args:
        axis: `depth`, `space` or `values`.
        what: In words.
        code: The spec as Python, such as `ws.Tie(rate=2, fuse=ws.mean)`, or the call.
        where: Which parameters, as `plan` takes it.
        reads: How many numbers of the model take part.
        stored: Numbers that the model stores then, or `None` where training decides, or it is refused.
        memory: Bytes of parameters then, with labels of codebooks, buffers of the model not counted.
        file: Bytes of a file of `ws.save` then: parameters, buffers and its header.
        left_out: Path and reason of what the pattern matches and stays as it is.
        notes: What the plan warns of.
        refused: Why it cannot be done, in the library's own words.
    """

    axis: str
    what: str
    code: str
    where: tuple[str, ...] | None = None
    reads: int = 0
    stored: int | None = None
    memory: int | None = None
    file: int | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""


def choices(
    model: nn.Module,
    model_sites: Sequence[Site],
    example_input: Any = None,
    sized: str = "",
    held: Sequence[Already] = (),
) -> list[Choice]:
    """Plan along each axis, and apply nothing.

    Args:
        model: Any module.
        model_sites: Every site of it.
        example_input: What it runs on, for the sizes of convolutions.
        sized: What is to be said of the sizes of that input, such as that they are guessed.
        held: What is shared already, from `already`.

    Returns:
        In the order of the axes; what fits no part of the model has the reason in `refused`.
    """
    return [
        *_of_depth(model, model_sites, held),
        *_of_space(model, example_input, sized),
        *_of_values(model, model_sites),
    ]


def equal_layers(model: nn.Module) -> Plan | SharingError:
    """Every layer that stands in equal blocks, grouped by role, or why there is none."""
    return _tried(model, Tie(rate=1), None)


def pattern(model_sites: Sequence[Site], groups: Sequence[Group], wanted: Sequence[Group]) -> tuple[str, ...]:
    """Globs by which a plan of `Tie` finds these groups and no others.

    Args:
        model_sites: Every site of the model.
        groups: All groups that there are.
        wanted: Those to be found.

    Returns:
        The lists of blocks, and what to take away from them; or every path, where no globs say it.
    """
    found = places(model_sites)
    paths = [path for group in wanted for path in group.items]
    taken = {*paths}
    befores = dict.fromkeys(place.before for path in paths if isinstance(place := found[path], Place))
    globs = [blocks_glob(before) for before in befores]
    hits = {site.path: site for site in select(model_sites, globs)}
    other = {path for group in groups for path in group.items} - taken
    harmful = [site for path, site in hits.items() if path in other or site.aliases or quantised(site.tensor)]
    while harmful:
        takes = next(
            (p for p in _exclusions(harmful[0], found[harmful[0].path]) if _only(model_sites, p, hits, taken)),
            harmful[0].path,
        )
        globs.append(f"!{takes}")
        gone = {site.path for site in select(model_sites, takes)}
        harmful = [site for site in harmful if site.path not in gone]
    return min((tuple(globs), *_named(model_sites, wanted, taken)), key=lambda one: sum(map(len, one)))


def _named(model_sites: Sequence[Site], wanted: Sequence[Group], taken: set[str]) -> list[tuple[str, ...]]:
    """What is wanted by its paths, and by its roles where these match nothing else."""
    roles = tuple(dict.fromkeys(group.name for group in wanted))
    fits = {site.path for site in select(model_sites, list(roles))} == taken
    return [tuple(path for group in wanted for path in group.items), *([roles] if fits else [])]


def written(spec: Spec) -> str:
    """A spec as the Python that makes it.

    Example:
        >>> written(Tie(rate=2, fuse=mean))
        'ws.Tie(rate=2, fuse=ws.mean)'
    """
    return re.sub(r"\b(Tie|Templates|Codebook|mean)\b", r"ws.\1", repr(spec))


def _exclusions(site: Site, place: Place | str) -> Iterable[str]:
    """Globs that might take a site away, the shortest first."""
    holder, _, name = site.path.rpartition(".")
    yield from NORMS if in_norm(site) else ()
    if isinstance(place, Place):  # the same layer of every block, then its parameter
        yield from (place.role.rpartition(".")[0], place.role)
    yield f"*.{holder.rpartition('.')[2]}"
    yield f"*.{name}"
    yield re.sub(r"\b\d+\b", "*", holder)
    yield re.sub(r"\b\d+\b", "*", site.path)


def _only(model_sites: Sequence[Site], glob: str, hits: Any, taken: set[str]) -> bool:
    """Whether a glob takes something away, and nothing that is wanted."""
    try:
        matched = {site.path for site in select(model_sites, glob)}
    except SharingError:
        return False
    return bool(matched & hits.keys()) and not matched & taken


def _of_depth(model: nn.Module, model_sites: Sequence[Site], held: Sequence[Already]) -> list[Choice]:
    unshared = equal_layers(model)
    shared = _shared_across_depth(held)
    if isinstance(unshared, SharingError):
        return [Choice("depth", "tie layers", "ws.Tie(rate=2)", refused=shared or str(unshared))]
    by_path = {site.path: site for site in model_sites}
    layers = [group for group in unshared.groups if not in_norm(by_path[group.items[0]])]
    if shared and not any(len(group.shape) > 1 for group in layers):
        left = "norms and biases" if layers else "norms"
        return [Choice("depth", "tie layers", "ws.Tie(rate=2)", refused=f"{shared} What is left are {left}.")]
    layers = layers or list(unshared.groups)
    deepest = max(len(group.items) for group in layers)
    ties: dict[int, Choice] = {}
    for rate in (rate for rate in RATES if rate <= deepest):
        wanted = [group for group in layers if len(group.items) >= rate]
        where = pattern(model_sites, unshared.groups, wanted)
        only = "" if len(wanted) == len(layers) else f", in {', '.join(glob for glob in where if glob[0] != '!')} alone"
        what = f"{rate} layers read one, norms their own{only}"
        tie = _planned(model, "depth", what, Tie(rate=rate, fuse=mean), where)
        if tie.stored is None or tie.stored not in (other.stored for other in ties.values()):
            ties[rate] = tie  # six layers have two slots at rate 3 and at rate 4: one line says it
    groups = _tried(model, Templates(1), None)
    if isinstance(groups, SharingError):
        return [*ties.values(), Choice("depth", "layers mix templates", "ws.Templates(2)", refused=str(groups))]
    depths = {len(group.items) for group in groups.groups}
    mixed = []
    for rate, tie in ties.items():
        if len(depths) == 1 and min(depths) < 1.5 * rate:
            continue  # one template, which is what a tie of all layers stores
        spec = Templates(max(1, round(min(depths) / rate)))
        if len(depths) > 1 and tie.stored is not None:  # as many numbers as tied layers, spread over all groups
            spec = Templates(budget=tie.stored)
        mixed.append(_planned(model, "depth", f"layers mix templates, about as small as rate {rate}", spec, None))
    return list({choice.code: choice for choice in (*ties.values(), *mixed)}.values())


def _shared_across_depth(held: Sequence[Already]) -> str:
    """Why nothing is left to tie, where layers are shared already; or nothing."""
    shared = [row for row in told(held) if row[0] in SHARED]
    layers = [row for row in shared if "*" in row[1] or row[0] in ("runs several times", "one module")]
    layers += [row for row in shared if row[0].endswith("by a plan") and row not in layers]
    return f"What repeats is shared already: {layers[0][1]}, {layers[0][0]}." if layers else ""


def _of_space(model: nn.Module, example_input: Any, sized: str) -> list[Choice]:
    found = []
    counts = count(model)
    beside = file_size(model) - counts.bytes  # of parameters: buffers and the header, which stay about as they are
    if any(isinstance(module, LocalLayer) for module in model.modules()):
        try:
            folds = plan_fold(model)
            off = f"; kernels are off their mean by up to {folds.error:.2g}" if folds.error else ", exactly"
            size = folds.stored_after * (counts.bytes // max(1, counts.stored))
            sizes = (folds.stored_after, size, size + beside)
            reads = sum(row.stored_before for row in folds.rows)
            call = "ws.fold(model, float('inf'))" if folds.error else "ws.fold(model)"
            found.append(Choice("space", f"fold local layers{off}", call, None, reads, *sizes))
        except SharingError as error:
            found.append(Choice("space", "fold local layers", "ws.fold(model)", refused=str(error)))
    if any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules()):
        call, what = "ws.localize_(model, example_input)", "convolutions get a kernel for each position"
        if example_input is None:
            reason = "It needs an input that the model runs on, and none is known: give example_input."
            return [*found, Choice("space", what, call, refused=reason)]
        try:
            local = plan_local(model, example_input)
            before = sum(row.stored_before for row in local.rows)
            size = local.stored_after * local.bytes_each
            sizes = (before, local.stored_after, size, size + beside)
            found.append(Choice("space", f"{what}{sized}", call, None, *sizes, left_out=local.left_out))
        except SharingError as error:
            found.append(Choice("space", what, call, refused=str(error)))
    elif not found:
        found.append(Choice("space", "local layers", "ws.localize_", refused="The model has no convolution."))
    return found


def _of_values(model: nn.Module, model_sites: Sequence[Site]) -> list[Choice]:
    what = "{} values for each weight"
    found = [_planned(model, "values", what.format(values), Codebook(values), None) for values in VALUES]
    if all(choice.refused for choice in found) and (where := _matrices(model, model_sites)):
        # Layers of a class of its own, as GPT-2's are, have to be named.
        named = [_planned(model, "values", what.format(values), Codebook(values), where) for values in VALUES]
        found = found if all(choice.refused for choice in named) else named
    try:
        pulled = trained_weights(model, None, "Proximal")
    except SharingError as error:
        return [*found, Choice("values", "pull weights together", "ws.Proximal(1e-3)", refused=str(error))]
    reads = sum(site.tensor.numel() for site in pulled)
    layers = f"{len(pulled)} layers" if len(pulled) > 1 else "one layer"
    what = f"pull weights of {layers} together while training"
    return [*found, Choice("values", what, "ws.Proximal(strength=1e-3)", None, reads)]


def _matrices(model: nn.Module, model_sites: Sequence[Site]) -> tuple[str, ...]:
    """Globs on the matrices and kernels of equal blocks, or nothing."""
    unshared = equal_layers(model)
    groups = () if isinstance(unshared, SharingError) else unshared.groups
    wanted = [group for group in groups if len(group.shape) > 1]
    return pattern(model_sites, groups, wanted) if wanted else ()


def _planned(model: nn.Module, axis: str, what: str, spec: Spec, where: tuple[str, ...] | None) -> Choice:
    made = _tried(model, spec, where)
    if isinstance(made, SharingError):
        return Choice(axis, what, written(spec), where, refused=str(made))
    memory, file = made.bytes_after, file_size(model, made)
    if isinstance(spec, Codebook):
        memory += sum(group.index_memory for group in made.groups if isinstance(group, Clusters))
    reads = sum(group.stored_before for group in made.groups)
    left_out = tuple((left.path, left.reason) for left in made.left_out)
    return Choice(axis, what, written(spec), where, reads, made.stored_after, memory, file, left_out, made.notes)


def _tried(model: nn.Module, spec: Spec, where: Where) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SharingWarning)  # the notes say it
        try:
            return make_plan(model, spec, list(where) if isinstance(where, tuple) else where)
        except SharingError as error:
            return error
