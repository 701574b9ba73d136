"""Chains of blocks in a network, and the loops that equal ones make in them.

A chain is a `Sequential`, which runs its blocks itself, or a list that a model's own forward runs. Two of its blocks
are equal when they have the same structure, and all their weights of two or more dimensions are the same parameters;
norms, biases and other vectors are each block's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from weightshare.depth.loops import Looped, Run, find_loops, loop_text
from weightshare.surgery import edit
from weightshare.surgery.derived import plain_class, sources


@dataclass(frozen=True)
class Chain:
    """A chain of blocks that read common weights.

    Args:
        path: Of the container.
        names: Of its blocks.
        runs: The loops in it.
        open: Why equal weights make no loop, or none that the folded network runs itself.
    """

    path: str
    names: tuple[str, ...]
    runs: tuple[Run, ...]
    open: tuple[str, ...]

    def __str__(self) -> str:
        return loop_text(self.names, self.runs)

    @property
    def looped(self) -> bool:
        """Whether there is a loop."""
        return any(run.passes > 1 for run in self.runs)


def chains(model: nn.Module, tied: Sequence[Sequence[str]]) -> list[Chain]:
    """The chains in which weights of different blocks are one, with their loops.

    Args:
        model: Whose weights are tied already.
        tied: Paths of those that are one parameter, each list in the order of the model.
    """
    found = []
    for path, container in model.named_modules():
        if isinstance(container, nn.Sequential | nn.ModuleList):
            lead = f"{path}." if path else ""
            inside = [[item.removeprefix(lead) for item in kind if item.startswith(lead)] for kind in tied]
            reads = [tuple(dict.fromkeys(item.partition(".")[0] for item in kind)) for kind in inside]
            if any(len(blocks) > 1 for blocks in reads):
                found.append(_chain(path, container, [blocks for blocks in reads if len(blocks) > 1]))
    return found


def within_blocks(found: Sequence[Chain], tied: Sequence[Sequence[str]]) -> list[str]:
    """What is one weight in no two blocks of any chain, and so runs twice by the forward of what holds it.

    Args:
        found: From `chains`.
        tied: As there.
    """
    apart = []
    for first, *others in tied:
        leads = [f"{chain.path}." if chain.path else "" for chain in found]
        blocks = [
            {item.removeprefix(lead).partition(".")[0] for item in (first, *others) if item.startswith(lead)}
            for lead in leads
        ]
        if not any(len(names) > 1 for names in blocks):
            apart.append(
                f"'{first}' and '{others[0]}' lie in one block, or in no chain: the forward around them runs both"
            )
    return apart


def close_(edits: edit.Transaction, found: Sequence[Chain]) -> nn.Module:
    """Put loops in the place of chains that run their blocks themselves.

    Returns:
        The model, or what takes its place where it is such a chain itself.
    """
    model = edits.model
    for chain in found:
        container = model.get_submodule(chain.path)
        if chain.looped and type(container) is nn.Sequential:
            looped = Looped(
                {name: block for name, block in container._modules.items() if block is not None}, chain.runs
            )
            looped.training = container.training
            if not chain.path:
                return looped
            edits.replace(chain.path, looped)
    return model


def _chain(path: str, container: nn.Sequential | nn.ModuleList, reads: Sequence[tuple[str, ...]]) -> Chain:
    blocks = {name: block for name, block in container._modules.items() if block is not None}
    runs = []
    for run in find_loops([(_structure(block), *map(id, _matrices(block).values())) for block in blocks.values()]):
        weighty = any(_matrices(list(blocks.values())[at]) for at in run.blocks)
        runs.append(run if weighty else Run(run.start, run.length * run.passes))
    reasons = _open(blocks, runs, reads)
    if type(container) is not nn.Sequential and any(run.passes > 1 for run in runs):
        reasons.append(
            f"a {type(container).__name__} is run by the forward around it, so the loop stands there, and its passes "
            "read one weight"
        )
    return Chain(path, tuple(blocks), tuple(runs), tuple(dict.fromkeys(reasons)))


def _open(blocks: Mapping[str, nn.Module], runs: Sequence[Run], reads: Sequence[tuple[str, ...]]) -> list[str]:
    """Why blocks that read one weight are no passes of one loop."""
    names = list(blocks)
    loops = [{names[at] for at in run.blocks} for run in runs if run.passes > 1]
    reasons = []
    for first, *others in reads:
        for block in others:
            if any({first, block} <= loop for loop in loops):
                continue
            one, two = blocks[first], blocks[block]
            matrices = _matrices(two)
            own = [name for name, tensor in _matrices(one).items() if matrices.get(name) is not tensor]
            if _structure(one) != _structure(two):
                kinds = " and ".join(dict.fromkeys((type(one).__name__, type(two).__name__)))
                reasons.append(f"blocks '{first}' and '{block}' read one weight, and differ in kind or shape ({kinds})")
            elif own:
                more = f" and {len(own) - 1} more" if len(own) > 1 else ""
                reasons.append(
                    f"blocks '{first}' and '{block}' read one weight, and have '{own[0]}'{more} of their own"
                )
            else:
                reasons.append(f"block '{block}' is block '{first}' again, after others")
    return reasons


def _structure(block: nn.Module) -> tuple[object, ...]:
    """Types of all parts, and names and shapes of what they store."""
    kinds = tuple((path, plain_class(module)) for path, module in block.named_modules())
    tensors = [*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)]
    return kinds, tuple(sorted((name, tuple(tensor.shape)) for name, tensor in tensors))


def _matrices(block: nn.Module) -> dict[str, object]:
    """What a further pass does not have of its own, by name: weights, and what makes those that are not stored."""
    modules = dict(block.named_modules())
    norms = [path for path, module in modules.items() if "Norm" in type(module).__name__]
    stored = {
        name: tensor
        for name, tensor in block.named_parameters(remove_duplicate=False)
        if sum(length > 1 for length in tensor.shape) > 1 and name.rpartition(".")[0] not in norms
    }
    made = {f"{path}.{name}": source for path, one in modules.items() for name, source in sources(one).items()}
    return {**stored, **made}
