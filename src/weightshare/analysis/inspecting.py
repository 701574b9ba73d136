"""Looks at a model: everything is put together here, and the model is left as it was."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightshare.analysis.alike import alike
from weightshare.analysis.example import untouched
from weightshare.analysis.file_size import file_size
from weightshare.analysis.inspection import Blocks, Inspection, Part, Role
from weightshare.analysis.outlook import choices, equal_layers
from weightshare.analysis.present import Already, already
from weightshare.analysis.steps import cautions, steps
from weightshare.analysis.trial import SMALL, compared, trial
from weightshare.decoding import Decoded
from weightshare.depth.cka import FEWEST
from weightshare.errors import SharingError, SpecError
from weightshare.generating import refuse_foreign
from weightshare.planning import applied_plans
from weightshare.sharing import Group
from weightshare.surgery.blocks import Place, block_path, numbered, places, sequences
from weightshare.surgery.copies import copied
from weightshare.surgery.count import count
from weightshare.surgery.quantised import packed_layers
from weightshare.surgery.sites import Site, sites, unwrapped
from weightshare.surgery.watch import run


def inspect(
    model: nn.Module,
    example_input: Any = None,
    batches: Iterable[Any] | None = None,
    name: str = "",
) -> Inspection:
    """Say what repeats in a model, what could be shared along each axis, and what that would store.

    Numbers are those of real plans at several rates, none of which is applied. Weights of equal blocks are compared; so
    is what blocks compute, if batches are given, or the model is small and its input is guessed.

    Args:
        model: Any module. It is left as it was: its numbers, its modes, its hooks and the random generators.
        example_input: What the model runs on, a tensor, a sequence of positional arguments or a mapping of keyword
            arguments; by default one is guessed. It tells how often layers run, and the sizes of convolutions. On 4
            examples or more, or random ones of the shape of one, the outputs of blocks are compared.
        batches: Inputs, of 4 examples or more each, on which the outputs of blocks are compared instead.
        name: What the model is called: a title, and where it has a colon, as `timm:vit_tiny_patch16_224` has, what
            commands build it by.

    Returns:
        An `Inspection`: print it, or take its fields, `to_json()` or `page()`. Where the model does not run, `unrun`
        says on what and why, and all that needs no forward pass is there.

    Raises:
        SpecError: If batches are one tensor, or the model has layers without shapes (lazy ones) and no example input
            that it runs on.
        ModelChanged: If layers read a bank that is not theirs.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> found = inspect(net)
        >>> found.equal, [choice.stored for choice in found.choices if choice.code.startswith("ws.Tie")]
        (48, [24, 12])
    """
    model = unwrapped(model)
    with untouched(model):
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            model = _built(model, example_input)
        if not any(True for _ in model.parameters()):
            return _empty(model, name)
        return _inspected(model, example_input, batches, name)


def _inspected(model: nn.Module, example_input: Any, batches: Iterable[Any] | None, name: str) -> Inspection:
    refuse_foreign(model)
    found = sites(model)
    meta = any(site.tensor.is_meta for site in found)
    held_batches = None if batches is None else _listed(batches)
    ran = trial(model, example_input, held_batches)
    counts, unshared = count(model), equal_layers(model)
    groups = () if isinstance(unshared, SharingError) else unshared.groups
    held = tuple(already(model, found, ran.calls))
    possible = tuple(choices(model, found, ran.example, ran.sized, held))
    activations, said = None, ""
    if groups and not meta:
        activations, said = compared(model, ran, held_batches, counts.stored <= SMALL)
    file = file_size(model)
    similar = tuple(alike(model, groups, found))
    blocks, parts = _blocks(model, groups, found)
    return Inspection(
        *(type(model).__name__, name, counts.stored, counts.logical, counts.bytes, counts.buffer_bytes),
        label_bytes=sum(
            group.index_memory
            for _, plan in applied_plans(model)
            for group in plan.groups
            if isinstance(group, Decoded)
        ),
        file=file,
        blocks=tuple(blocks),
        parts=tuple(parts),
        roles=tuple(
            sorted(
                (Role(g.name, g.shape, g.dtype, len(g.items), g.stored_before) for g in groups),
                key=lambda role: -role.numbers,
            )
        ),
        already=held,
        choices=possible,
        alike=similar,
        activations=activations,
        inputs=said if activations is not None else ran.said,
        unrun=ran.failed,
        uncompared=said if activations is None and not ran.failed else "",
        cautions=tuple(cautions(model, found, possible, held)),
        steps=tuple(steps(name if ":" in name else "", possible, counts.stored, file)),
    )


def _built(model: nn.Module, example_input: Any) -> nn.Module:
    """A copy whose lazy layers have shapes."""
    lazy = next(path for path, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor))
    if example_input is None:
        raise SpecError(
            f"'{lazy}' has no shape yet: its lazy module is not built. Give example_input, on which a copy of the "
            "model is run once, or run the model yourself."
        )
    model = copied(model)
    run(model, example_input)
    return model


def _empty(model: nn.Module, name: str) -> Inspection:
    bytes_of_buffers = sum(buffer.nbytes for buffer in model.buffers())
    packed = tuple(Already("quantised", (path,), reason) for path, reason in packed_layers(model).items())
    return Inspection(type(model).__name__, name, 0, 0, 0, bytes_of_buffers, already=packed)


def _blocks(model: nn.Module, groups: Sequence[Group], model_sites: Sequence[Site]) -> tuple[list[Blocks], list[Part]]:
    """The lists of equal blocks, and the whole model block by block."""
    found = places(model_sites)
    lists: dict[tuple[str, Any], tuple[set[int], int]] = {}
    for group in groups:
        at = [place for path in group.items if isinstance(place := found[path], Place)]
        indices, numbers = lists.get((at[0].before, at[0].kind), (set(), 0))
        lists[at[0].before, at[0].kind] = indices | {place.index for place in at}, numbers + group.stored_before
    kinds = {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}
    listed = [
        Blocks(before, kinds.get(block_path(before, min(indices)), "Parameter"), len(indices), numbers)
        for (before, _), (indices, numbers) in lists.items()
    ]
    parts: dict[str, Part] = {}
    named = sequences(model_sites)
    befores = {before for before, _ in lists}
    for site in model_sites:
        place = found[site.path]
        at = next(((before, index) for before, index, _ in numbered(site.path, named) if before in befores), None)
        path = block_path(*at) if at is not None else site.path.partition(".")[0]
        kind = (
            list(lists).index(key)
            if isinstance(place, Place) and (key := (place.before, place.kind)) in lists
            else None
        )
        before = parts.get(path, Part(path, 0, kind))
        parts[path] = Part(path, before.numbers + site.tensor.numel(), before.blocks)
    return listed, list(parts.values())


def _listed(batches: Iterable[Any]) -> list[Any]:
    if isinstance(batches, Tensor):
        raise SpecError(f"batches: got one tensor, need a list of batches of {FEWEST} examples or more, such as [x].")
    return list(batches)
