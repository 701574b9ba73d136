"""Saving and loading models whose weights are shared: each tensor once, ties by name, checked to the last bit.

A weight of few values is stored as a codebook and packed labels (`compact`), whether a `Codebook` makes it or training
left it so. What a `Codebook`, a `Lattice` or a `LowRank` makes is stored as these hold it, and loaded as such; any
other weight is dense again. A bank of `Templates` is stored once, with a recipe for the weight of each layer (`rows`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from weightshare.decoding import MIXTURE, Decoded
from weightshare.depth.templates import TemplateBank, TemplateGroup
from weightshare.errors import FileError, ModelChanged, SharingError
from weightshare.files import archive
from weightshare.files.compact import Coded, code
from weightshare.files.folders import is_index, located, read_shards
from weightshare.files.mixture import Mixed
from weightshare.files.recipes import Recipe, dtype_name
from weightshare.files.rows import Row
from weightshare.files.unlike import expect_average, holds, unlike
from weightshare.generating import Banked, bank_of
from weightshare.planning import Plan, applied_plans, record
from weightshare.surgery import edit
from weightshare.surgery.quantised import refuse_wrapped
from weightshare.surgery.shards import refuse_spread
from weightshare.surgery.sites import unwrapped
from weightshare.verbs import refuse_untied

KIND = "model"
FREE, TIMES = 2**30, 64
"""Bytes that dense weights may take in any case, and times the size of their file: 32 is float32 of two values."""


def save(model: nn.Module, path: str | Path) -> int:
    """Write a model's parameters and persistent buffers to a safetensors file, each tensor once.

    Weights of few values take a codebook and packed labels, exact to the bit, where that is much smaller.

    Args:
        model: Any module, shared or folded. Plans that were applied to it are written too. A file of torch's
            `AveragedModel` goes back into one, with its count of updates; of the average alone, save its `module`.
        path: Name of the file; replaced in one step once the new one is whole.

    Returns:
        Size of the file in bytes.

    Raises:
        ModelChanged: If ties have come undone (call `retie_` first), or a parameter was quantised.
        SpecError: If the parameters are spread over processes: save `unsharded_copy(model)`.
        FileError: If the state holds anything but dense tensors, or different parameters in the same memory, if a plan
            shares what a codebook or a lattice of an earlier one stores, or if the disk refuses.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(net, f"{folder}/net.safetensors")
        ...     same = load(f"{folder}/net.safetensors", nn.Linear(2, 3))
        >>> torch.equal(same.weight, net.weight)
        True
    """
    model = unwrapped(model)
    refuse_spread(model, "save")
    refuse_untied(model)
    refuse_wrapped(model.named_parameters(), "be written")
    plans = [[at, plan.to_json()] for at, plan in applied_plans(model)]
    owned, coded, aliases = stored(model)
    return archive.write(path, owned, aliases, {"kind": KIND, "plans": plans}, coded, rows_of(model))


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a file that `save` wrote into a model of the same structure, and restore its ties and plans.

    Args:
        path: The file.
        model: A model with the same names, shapes and dtypes, shared already or not yet.

    Returns:
        The same model, changed in place: what the file ties is one parameter, and its numbers are the file's.

    Raises:
        FileError: If the file is cut, edited or not ours, if a name, shape or dtype differs (the first one is named),
            or if the model ties what the file stores apart.
        ShapeMismatch: If the file ties what the model has frozen and trained, or on two devices. In every case the
            model is bit for bit as it was.
    """
    model = unwrapped(model)
    refuse_spread(model, "load", "Load into the whole model, and shard it then.")
    held = archive.read(path, KIND)
    plans = _plans(str(path), held.content.get("plans", []))
    expect_average(str(path), {*held.described, *held.aliases}, model)
    before = unlike(str(path), plans, model)
    try:
        _fill(str(path), model, held, plans)
    except FileError as error:
        if not before:
            raise
        raise FileError(f"{before}{error}") from error
    return model


def tensors(path: str | Path, largest: int | None = None) -> dict[str, Tensor]:
    """Read any safetensors file as a state dict of dense tensors, aliases resolved.

    Args:
        path: A file of ours (its checksum is verified) or of anyone else's; an index of several (`*.index.json`), or a
            folder with one of them, as transformers writes it.
        largest: Bytes that what the file stores in a shorter form may take when it is dense: a few bytes of a hostile
            file could ask for any memory. If `None`, a GiB, or 64 times the size of the file where that is more.

    Returns:
        Every name with its tensor, on the CPU; aliases give the same tensor object as their owner.

    Raises:
        FileError: If the file is cut, damaged or no safetensors file, if its weights would take more than `largest`, or
            if it holds a model whose weights are generated otherwise than from templates (transforms, fusions that are
            trained through), or from what a later plan shares: fold such a model first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(nn.Linear(2, 3), f"{folder}/net.safetensors")
        ...     state = tensors(f"{folder}/net.safetensors")
        >>> sorted(state)
        ['bias', 'weight']
    """
    path = located(path)
    if is_index(path):
        return read_shards(path)
    held = archive.read_any(path)
    for at, plan in _plans(str(path), held.content.get("plans", [])):
        made = (path for group in plan.groups if isinstance(group, Banked) for path in group.under(at).items)
        bare = any(_bare(name, group, held) for name, (_, group) in decoded([(at, plan)]).items())
        if bare or not held.rows.keys() >= {*made}:
            raise FileError(
                f"'{path}' stores what weights are made from in each forward pass ({plan.spec!r}), not the weights. "
                "Load it into the model with weightshare.load, fold that, and save the fold."
            )
    most = max(FREE, TIMES * held.size) if largest is None else largest
    if held.dense_size > most:
        raise FileError(
            f"'{path}' stores {held.size:,} bytes, and its weights would take {held.dense_size:,} more when they are "
            f"dense, over {most:,}. If that is meant, call weightshare.tensors(path, largest={held.dense_size})."
        )
    return held.state


def stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Recipe], dict[str, str]]:
    """What a file stores of a model: tensors as they are, those that have a recipe, and further names with the owner's.

    Raises:
        ModelChanged: If a weight does not read what its plan stores for it any more.
        FileError: If a later plan shares what a weight is made of.
    """
    owned, aliases = owners(model)
    coded: dict[str, Recipe] = {}
    tied = {*aliases, *aliases.values()}
    shared = {path for at, plan in applied_plans(model) for group in plan.groups for path in group.under(at).items}
    for name, (_, group) in decoded(applied_plans(model)).items():
        again = next((key for key in group.keys if key in tied or (key not in owned and key in shared)), None)
        if again is not None and group.rule == MIXTURE:
            continue  # without a recipe: what it is made of stands in the file as in memory
        if again is not None:
            raise FileError(
                f"Cannot store '{name}': a later plan shares what it is made of, '{again}', and a file holds that for "
                "each such weight apart. Call unshare_ first, and share one of the two ways."
            )
        first, second = (owned.pop(key, None) for key in group.keys)
        if first is None or second is None:
            raise ModelChanged(
                f"'{name}' does not read what is stored for it any more, though a plan says so. Call unshare_, or plan "
                "again."
            )
        coded[name] = Mixed(first, second, group.shape) if group.rule == MIXTURE else Coded(first, second)
    for name, tensor in list(owned.items()):
        found = None if {*Coded.parts(name)} & {*owned, *aliases, *coded} else code(tensor)
        if found is not None:
            coded[name] = found
            del owned[name]
    return owned, coded, aliases


def owners(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's state with each tensor once, by object identity, and the further names with their owner's."""
    owned: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, tensor in _state(model).items():
        owner = first_name.setdefault(id(tensor), name)
        if owner == name:
            owned[name] = tensor
        else:
            aliases[name] = owner
    return owned, aliases


def rows_of(model: nn.Module) -> dict[str, Row]:
    """The weights that layers read from banks of templates, in the order in which they can be made of what is stored.

    Raises:
        ModelChanged: If a layer does not read its bank any more.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, Row] = {}
    for at, plan in reversed(list(applied_plans(model))):  # a later plan may share what an earlier one stores
        for group in (group.under(at) for group in reversed(plan.groups) if isinstance(group, TemplateGroup)):
            bank = bank_of(model, group.items)
            assert isinstance(bank, TemplateBank)
            lies = next(path for path, module in modules.items() if module is bank)
            for number, path in enumerate(group.items):
                parent, _, last = path.rpartition(".")
                row = Row(lies, number, group.shape_of(number), dtype_name(bank.templates))
                names = [name for name, module in modules.items() if module is modules[parent]]
                found |= {f"{name}.{last}" if name else last: row for name in names}
    return found


def _state(model: nn.Module) -> dict[str, Tensor]:
    # keep_vars gives the objects themselves, so that identity tells which names are one tensor.
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor) or name.rpartition(".")[2] == "_extra_state":
            raise FileError(
                f"Cannot store '{name}': it is a {type(value).__name__}. Only parameters and buffers are stored, never "
                "pickles or other state."
            )
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise FileError(f"Cannot store '{name}': its lazy module is not built. Run the model once on one batch.")
    return state


def _fill(path: str, model: nn.Module, held: archive.Archive, plans: Sequence[tuple[str, Plan]]) -> None:
    """Share a model as plans say, and write what a file stores into it; all or nothing."""
    tensors = _as_in_memory(path, held, plans)
    sources = {**{name: name for name in tensors}, **held.aliases}
    with edit.transaction(model) as edits:
        for one in plans:  # in the order of applying: a later plan may share what an earlier one stores
            _decode(path, edits, [one], held)
            _place(path, edits, [one])
        _expect(path, tensors, sources, _state(model))
        _expect_items(path, model, plans)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for alias, owner in held.aliases.items():
            if alias in parameters and owner in parameters and parameters[alias] is not parameters[owner]:
                edit.common_slot([owner, alias], [parameters[owner], parameters[alias]])
                edits.put(alias, parameters[owner])
        written: set[tuple[int, str]] = set()
        for name, target in _state(model).items():
            source = sources[name]
            if (id(target), source) in written:
                continue
            written.add((id(target), source))
            # What is coded is made only now, when the model has room for all of it.
            value = held.coded[source].dense if tensors[source].is_meta else tensors[source]
            edits.write(target, value.to(target.device))
        for at, plan in plans:
            if not holds(model.get_submodule(at), plan):
                record(edits, at, plan)
        if held.rows and held.rows != rows_of(model):
            raise FileError(f"'{path}' has recipes for weights of banks that its own plans do not follow.")
        try:
            refuse_untied(model)
        except ModelChanged as error:
            raise FileError(f"'{path}' has a plan that its own tensors do not follow: {error}") from error


def _expect(path: str, held: Mapping[str, Tensor], names: Mapping[str, str], targets: Mapping[str, Tensor]) -> None:
    for name in targets:
        if name not in names:
            raise FileError(f"'{path}' lacks '{name}' {tuple(targets[name].shape)}, which the model has.")
    for name, owner in names.items():
        if name not in targets:
            raise FileError(f"'{path}' holds '{name}' {tuple(held[owner].shape)}, which the model lacks.")
    owner_of: dict[int, str] = {}
    for name, target in targets.items():
        value = held[names[name]]
        if target.is_meta:
            raise FileError(
                f"Cannot load '{name}': the model is on the meta device. Call model.to_empty(device=...) first."
            )
        if (value.shape, value.dtype) != (target.shape, target.dtype):
            raise FileError(
                f"'{name}' in '{path}' is {tuple(value.shape)} {value.dtype}, the model has {tuple(target.shape)} "
                f"{target.dtype}. Build the model as it was when it was saved."
            )
        other = owner_of.setdefault(id(target), names[name])
        if other != names[name]:
            raise FileError(
                f"The model ties '{name}' to '{other}', '{path}' stores them apart. Load it into a model that is not "
                "shared, then share that."
            )


def decoded(plans: Iterable[tuple[str, Plan]]) -> dict[str, tuple[Plan, Decoded]]:
    """The weights that plans make from stored numbers, by their path from the root, each with its plan and group."""
    return {
        group.under(at).items[0]: (plan, group.under(at))
        for at, plan in plans
        for group in plan.groups
        if isinstance(group, Decoded)
    }


def _plans(path: str, entries: object) -> list[tuple[str, Plan]]:
    try:
        return [(str(at), Plan.from_json(text)) for at, text in entries]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise FileError(f"'{path}' has a plan that cannot be read: {error}") from error


def _expect_items(path: str, model: nn.Module, plans: Sequence[tuple[str, Plan]]) -> None:
    """Every path that a plan shares is a weight of the model, be it a parameter or made from stored numbers."""
    for name in (name for at, plan in plans for group in plan.groups for name in group.under(at).items):
        parent, _, last = name.rpartition(".")
        try:
            fits = isinstance(getattr(model.get_submodule(parent), last), Tensor)
        except AttributeError:
            fits = False
        if not fits:
            raise FileError(f"'{path}' has a plan that does not fit the model: it shares '{name}', which is no weight.")


def _as_in_memory(path: str, held: archive.Archive, plans: Sequence[tuple[str, Plan]]) -> dict[str, Tensor]:
    """The tensors of a file under the names that a model has once its plans are applied; see `Archive.described`."""
    tensors = held.described
    for name, (_, group) in decoded(plans).items():
        if _bare(name, group, held):
            continue
        if name not in held.coded or held.coded[name].rule != group.rule:
            raise FileError(f"'{path}' has a plan by which '{name}' is {group.rule!r}, and no such recipe for it.")
        del tensors[name]
        tensors |= dict(zip(group.keys, held.coded[name].in_memory, strict=True))
    return tensors


def _bare(name: str, group: Decoded, held: archive.Archive) -> bool:
    """Whether a file has no recipe for a mixture, since a later plan shares what it is made of."""
    smaller = group.stored_after < group.stored_before  # as every plan's: what a damaged one asks for is bounded by it
    return group.rule == MIXTURE and smaller and not {name} & {*held.coded, *held.tensors, *held.aliases}


def _place(path: str, edits: edit.Transaction, plans: Sequence[tuple[str, Plan]]) -> None:
    """Make a model that is not shared yet read what generates its weights, to be filled from the file."""
    for at, plan in plans:
        try:
            part = edits.within(at)
            if not holds(part.model, plan):
                for group in plan.groups:
                    plan.spec.place_(part, group)
        except (SharingError, AttributeError) as error:
            raise FileError(f"'{path}' does not fit the model: {error}") from error


def _decode(path: str, edits: edit.Transaction, plans: Sequence[tuple[str, Plan]], held: archive.Archive) -> None:
    """Make a model that is not shared yet read what a file stores for its weights."""
    there = decoded(applied_plans(edits.model))
    for name, (plan, group) in decoded(plans).items():
        if name not in there:
            if _bare(name, group, held):
                dtype = getattr(torch, group.dtype)
                first, second = (torch.zeros(shape, dtype=dtype) for shape in group.stored_shapes)
                said: Mapping[str, Any] = {"shape": group.shape, "dtype": group.dtype}
            else:
                (first, second), said = held.coded[name].in_memory, held.coded[name].recipe()
            got = (tuple(first.shape), tuple(second.shape)), tuple(said["shape"]), said["dtype"]
            if got != (group.stored_shapes, group.shape, group.dtype):
                raise FileError(
                    f"'{path}' has a plan for '{name}' of {group.shape} {group.dtype} that is made of "
                    f"{group.stored_shapes}, and stores {got[0]} for {got[1]} {got[2]}."
                )
            try:
                if edit.parameter_at(edits.model, name).is_meta:
                    raise FileError(
                        f"Cannot load '{name}': the model is on the meta device. Call model.to_empty(device=...) first."
                    )
                plan.spec.read_(edits, group, first, second)  # pyright: ignore
            except ModelChanged as error:
                raise FileError(f"'{path}' does not fit the model: {error}") from error
