"""Sharded training: FSDP2's `fully_shard` on a model whose weights are shared, on any process group of torch.

    weightshare.share_(model, spec)                         # first share
    print(shard_(model))                                    # then shard: every process, after init_process_group
    optimizer = torch.optim.AdamW(weightshare.param_groups(model, weight_decay=1e-2))

FSDP2 gathers the parameters of a *unit* before the first of its modules runs, lets go of them after the last one, and
refuses a parameter that lies in two units. So blocks that read one parameter become one unit, `fully_shard([a, b])`; a
block that shares with what lies in no block, and one that holds a bank which others read, stays in the root unit,
whose parameters are there for the whole pass. That costs memory where readers are far apart: neighbours that share
(`order=sequential`) are gathered together as one would want; with `strided` or `random` order a unit lives from its
first reader to its last, so that most slots are whole at once. These are the slots alone, `1/rate` of the model, and
they are gathered once for all their readers, where an unshared model gathers each block's.

What a whole model can do and a sharded one cannot (`weightshare.save`, `fold`, `unshare_`) is done with
`unsharded_copy(model)`; a run goes on from `save_sharded` and `load_sharded` of `weightshare.files.sharded`, which this
module has too. Reports and measures count the numbers of the whole: every process has to ask for them.

Order matters: `fully_shard` puts other objects in the place of parameters, one for each slot, so plans and optimizers
are made before and after it. Hooks that make generated weights run after FSDP2's, which were put before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from torch import Tensor, nn
import torch.distributed as dist

from weightshare._table import render
from weightshare.errors import NoMatch, SpecError
from weightshare.files.sharded import load_sharded, save_sharded
from weightshare.generating import Bank, opens
from weightshare.surgery.blocks import Place, block_path, numbered, places, sequences
from weightshare.surgery.copies import remember, unsharded_copy
from weightshare.surgery.quantised import quantised
from weightshare.surgery.shards import is_spread
from weightshare.surgery.sites import Site, plain, prefixes, sites
from weightshare.verbs import refuse_untied

__all__ = ["Sharding", "Unit", "load_sharded", "save_sharded", "shard_", "unsharded_copy"]


@dataclass(frozen=True)
class Unit:
    """Modules whose parameters are gathered and let go of together.

    Args:
        modules: Their paths; `""` is the model itself, whose unit holds all that no other one does.
        parameters: The first path of each parameter.
        numbers: Numbers in these, of the whole and not of this process's part.
        reason: Why several modules are one unit, or blocks are none.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    numbers: int
    reason: str = ""


@dataclass(frozen=True)
class Sharding:
    """What `shard_` did, to be printed.

    Args:
        units: The root unit last.
        processes: Over how many processes each parameter is spread.
    """

    units: tuple[Unit, ...]
    processes: int

    def __str__(self) -> str:
        rows = [
            (
                ", ".join(path or "(root)" for path in unit.modules[:4])
                + (f", and {len(unit.modules) - 4} more" if len(unit.modules) > 4 else ""),
                len(unit.parameters),
                unit.numbers,
                unit.reason,
            )
            for unit in self.units
        ]
        table = render(("unit", "parameters", "numbers", "note"), rows, numbers=("parameters", "numbers"))
        return f"{len(self.units)} units over {self.processes} processes\n\n{table}"


def shard_(model: nn.Module, mesh: Any = None, blocks: str | Sequence[str] | None = None, **options: Any) -> Sharding:
    """Spread a model's parameters over processes by FSDP2, each shared parameter in one unit.

    Every process calls it, with the same model: the same numbers too, since each keeps its part of its own.

    Args:
        model: Shared already, or never to be shared. On one device, which is the mesh's.
        mesh: A `DeviceMesh` of one dimension, or of two for HSDP; by default all processes of the default group.
        blocks: Modules that become units: a glob on their paths or a list of these, outermost matches first; `[]` makes
            the root unit the only one. By default the repeated blocks that `Tie` finds. A block has to be *called*:
            what another module reads parameters of without calling it belongs in no unit of its own.
        options: As for `torch.distributed.fsdp.fully_shard`: `reshard_after_forward`, `mp_policy`, `offload_policy`,
            `shard_placement_fn`.

    Returns:
        The units, and what they hold.

    Raises:
        SpecError: If there is no process group, the model is wrapped by DistributedDataParallel or sharded already, its
            parameters lie on several devices or on meta, or one is a scalar, not contiguous in memory or of integers;
            or torch refuses an option. The model is then as it was.
        NoMatch: If a glob of `blocks` matches no module.
        ModelChanged: If ties have come undone; call `retie_` first.
    """
    model = plain(model)
    found = sites(model)
    _refuse(model, found)
    refuse_untied(model)
    grouped = _units(model, found, blocks)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = found[0].tensor.device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),)) if mesh is None else mesh
    if getattr(mesh, "device_type", None) != device:
        raise SpecError(f"The mesh is {mesh!r}, and the parameters lie on {device}: need a DeviceMesh of that device.")
    restore = remember(model)
    try:
        for unit in grouped[:-1]:
            modules = [model.get_submodule(path) for path in unit.modules]
            fully_shard(modules if len(modules) > 1 else modules[0], mesh=mesh, **options)
        fully_shard(model, mesh=mesh, **options)
    except Exception as error:
        restore()
        raise SpecError(f"fully_shard refuses {type(model).__name__}: {error}") from error
    return Sharding(tuple(grouped), mesh.size(mesh.ndim - 1))


def _refuse(model: nn.Module, found: Sequence[Site]) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise SpecError(
            "shard_: there is no process group. Start the processes, for instance by torchrun, and call "
            "torch.distributed.init_process_group first."
        )
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise SpecError("shard_: the model is wrapped by DistributedDataParallel. Shard the module inside of it.")
    devices = sorted({str(site.tensor.device) for site in found})
    if len(devices) > 1:
        raise SpecError(f"shard_: the parameters lie on {', '.join(devices)}. Move the model to one device first.")
    for site in found:
        if (problem := _problem(site.tensor)) is not None:
            raise SpecError(f"shard_: '{site.path}' {problem}")


def _problem(tensor: Tensor) -> str | None:
    """Why FSDP2 cannot spread a parameter, and what to do."""
    if is_spread(tensor):
        return "is sharded already. Share and shard a model once, from a whole one."
    if tensor.is_meta:
        return "is on the meta device and has no numbers: call to_empty(device=...), retie_ and load the model first."
    if said := quantised(tensor):
        return f"cannot be sharded: {said}."
    if tensor.ndim == 0:
        return "is a scalar, which has no dimension to cut. Make it a vector of one number: shape (1,)."
    if not tensor.is_contiguous():
        return "is not contiguous in memory. Set it to a contiguous copy before sharing; channels-last models too."
    return None


def _units(model: nn.Module, found: Sequence[Site], blocks: str | Sequence[str] | None) -> list[Unit]:
    """Blocks that share a parameter together, the root unit last; see the module's text."""
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen = _repeated(found) if blocks is None else _matched(modules, blocks)
    first_path = {id(modules[path]): path for path in reversed(chosen) if _has_forward(modules[path])}

    def block_of(name: str) -> str:
        """The outermost block above a parameter, or the root."""
        return next(filter(None, (first_path.get(id(modules[above])) for above in prefixes(name)[:-1])), "")

    unit_of: dict[str, set[str]] = {path: {path} for path in ("", *sorted(first_path.values(), key=[*modules].index))}
    blocks_of = {site.path: {block_of(name) for name in site.names} for site in found}
    for together in blocks_of.values():
        _merge(unit_of, together)
    for path in first_path.values():
        for bank in (module for module in modules[path].modules() if isinstance(module, Bank)):
            if not any(opens(module, bank) for module in modules[path].modules()):
                _merge(unit_of, {path, ""})  # blocks elsewhere read it, in a pass that begins before this block runs
    units = []
    for paths in {id(unit): unit for unit in unit_of.values()}.values():
        held = [site for site in found if not paths.isdisjoint(blocks_of[site.path])]
        is_root = "" in paths
        if held or is_root:
            reason = "share a parameter" if len(paths) > 1 else ""
            if is_root and reason:
                reason = f"with {len(paths) - 1} blocks that share with what lies in none, or hold the bank of others"
            members = ("",) if is_root else tuple(path for path in unit_of if path in paths)
            units.append(Unit(members, tuple(site.path for site in held), sum(prod(s.shape) for s in held), reason))
    return sorted(units, key=lambda unit: unit.modules == ("",))


def _merge(unit_of: dict[str, set[str]], together: set[str]) -> None:
    """Make the units of several blocks one."""
    merged = set[str]().union(*(unit_of[path] for path in together))
    unit_of |= dict.fromkeys(merged, merged)


def _repeated(found: Sequence[Site]) -> list[str]:
    """The paths of all modules in lists of repeated blocks, a first one that differs too."""
    lists = {place.before for place in places(found).values() if isinstance(place, Place)}
    named = sequences(found)
    return [
        block_path(before, index)
        for site in found
        for name in site.names  # of a slot, each is in another block
        for before, index, after in numbered(name, named)
        if before in lists and after
    ]


def _matched(modules: dict[str, nn.Module], blocks: str | Sequence[str]) -> list[str]:
    chosen = []
    for glob in [blocks] if isinstance(blocks, str) else blocks:
        hits = [path for path in modules if path and fnmatchcase(path, glob)]
        if not hits:
            raise NoMatch(f"blocks={glob!r} matches no module of the model.")
        chosen += hits
    return chosen


def _has_forward(module: nn.Module) -> bool:
    """Whether a module can be called, so that FSDP2's hooks run: a `ModuleList` cannot."""
    return type(module).forward is not nn.Module.forward
