"""The report: what a model stores, what it shares, and whether the sharing still holds."""

from dataclasses import asdict, dataclass
import json
from math import prod
from typing import Any

from torch import nn

from weightshare._table import render, run_text, shape_text
from weightshare.decoding import Clusters, Decoded
from weightshare.generating import Banked, bank_of, refuse_foreign
from weightshare.planning import applied_plans, from_root
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.measure import space_sharing
from weightshare.space.positions import Mixtures, Positions
from weightshare.surgery.count import count, distinct_values, macs
from weightshare.surgery.edit import parameter_at
from weightshare.surgery.quantised import refuse_wrapped
from weightshare.surgery.sites import sites, unwrapped


@dataclass(frozen=True)
class SharedGroup:
    """One group of a plan as it stands in the model now.

    Args:
        name: The role, with the path of the submodule that was shared before it.
        shape: Shape of a slot.
        layers: Sites that read a slot.
        slots: Slots that are stored.
        labels: The slot of each layer; none where layers mix what is stored.
        intact: Whether every tie still holds.
    """

    name: str
    shape: tuple[int, ...]
    layers: int
    slots: int
    labels: tuple[int, ...]
    intact: bool


@dataclass(frozen=True)
class Clustered:
    """One weight that reads a codebook.

    Args:
        name: Its path.
        shape: Of the weight.
        values: Of the codebook.
        bits: Of one label on file.
        index_bytes: What the labels take in memory.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    bits: int
    index_bytes: int


@dataclass(frozen=True)
class Local:
    """One layer with a kernel at each position.

    Args:
        name: Its path.
        positions: Along each axis.
        kernel: Numbers of one kernel.
        modules: Classes of positions that would share during sleep.
        noise_within: Inverse signal-to-noise ratio of the kernels within modules: 0 where they are equal to the bit;
            also where every module is one position, and then the table gives none.
        noise_over: The same over all positions; 0 is a convolution.
    """

    name: str
    positions: tuple[int, ...]
    kernel: int
    modules: int
    noise_within: float
    noise_over: float

    @staticmethod
    def snr(noise: float) -> str:
        """The ratio as text."""
        return "∞" if noise == 0 else f"{1 / noise:.3g}"


@dataclass(frozen=True)
class SharedPositions:
    """One weight of a local layer whose positions read stored kernels.

    Args:
        name: Its path.
        kernel: Shape of one kernel.
        positions: How many there are along each axis.
        slots: Kernels, or templates, that are stored.
        mixed: Whether each position reads a mixture of them, and not one.
        stored: Numbers that are stored for it, coefficients too.
        index_bytes: What the labels take in memory.
    """

    name: str
    kernel: tuple[int, ...]
    positions: tuple[int, ...]
    slots: int
    mixed: bool
    stored: int
    index_bytes: int


@dataclass(frozen=True)
class Report:
    """Numbers of a model; made by `report`, printed as a table or written as JSON.

    Args:
        model: Class of the model.
        stored: Parameters, each tensor once.
        logical: Parameters, once for every path that reads them.
        distinct: Different values, in each stored tensor, added up.
        bytes: Memory of the stored parameters.
        buffer_bytes: Memory of the buffers.
        macs: Multiply-accumulates of one forward pass on the example input, or `None` without one.
        groups: What the applied plans share.
        codebooks: Weights that read codebooks.
        local: Layers with a kernel at each position.
        positions: Weights of local layers whose positions share.
        other_ties: Parameters that several paths read and no plan speaks of, such as an embedding and a head.
    """

    model: str
    stored: int
    logical: int
    distinct: int
    bytes: int
    buffer_bytes: int
    macs: int | None
    groups: tuple[SharedGroup, ...]
    codebooks: tuple[Clustered, ...]
    local: tuple[Local, ...]
    positions: tuple[SharedPositions, ...]
    other_ties: tuple[tuple[str, ...], ...]

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps(asdict(self), indent=1)

    def __str__(self) -> str:
        shared = 1 - self.stored / max(1, self.logical)
        rows: list[tuple[str, object, str]] = [
            ("stored", self.stored, "parameters, each tensor once"),
            ("logical", self.logical, f"parameters as read; sharing saves {shared:.1%} of them"),
            ("distinct", self.distinct, "different values in the stored tensors"),
            ("bytes", self.bytes, f"of parameters, and {self.buffer_bytes:,} of buffers"),
        ]
        if self.macs is not None:
            rows.append(("MACs", self.macs, "one forward pass; sharing does not lower them"))
        text = [self.model, "", render(("number", "value", "meaning"), rows, numbers=("value",))]
        if self.groups:
            columns = ("shared group", "weight", "layers", "slots", "layer reads slot", "state")
            text += [
                "",
                render(
                    columns,
                    [
                        (
                            g.name,
                            shape_text(g.shape),
                            g.layers,
                            g.slots,
                            run_text(g.labels) if g.labels else "mixtures",
                            "shared" if g.intact else "UNTIED",
                        )
                        for g in self.groups
                    ],
                    numbers=("layers", "slots"),
                ),
            ]
        if self.codebooks:
            columns = ("weight", "shape", "values", "bits a label", "labels in memory")
            listed = [(c.name, shape_text(c.shape), c.values, c.bits, c.index_bytes) for c in self.codebooks]
            text += ["", render(columns, listed, numbers=columns[2:])]
        if self.local:
            columns = ("local layer", "positions", "kernel", "modules", "SNR within modules", "over positions")
            spaces = [
                (
                    at.name,
                    shape_text(at.positions),
                    at.kernel,
                    at.modules,
                    at.snr(at.noise_within) if at.modules < prod(at.positions) else "–",
                    at.snr(at.noise_over),
                )
                for at in self.local
            ]
            text += ["", render(columns, spaces, numbers=columns[2:])]
        if self.positions:
            columns = ("weight", "kernel", "positions", "a position reads", "stored", "labels in memory")
            listed = [
                (
                    *(p.name, shape_text(p.kernel), shape_text(p.positions)),
                    f"a mixture of {p.slots:,}" if p.mixed else f"one of {p.slots:,}",
                    *(p.stored, p.index_bytes),
                )
                for p in self.positions
            ]
            text += ["", render(columns, listed, numbers=columns[4:])]
        if not all(group.intact for group in self.groups):
            text.append("Ties have come undone: call weightshare.retie_(model).")
        text += [f"Also one parameter: {run_text(tie, 6)}" for tie in self.other_ties]
        return "\n".join(text)


def report(model: nn.Module, example_input: Any = None) -> Report:
    """Count what a model stores, reads and computes, and check what it shares.

    Args:
        model: Any module, shared or not. It is not changed.
        example_input: For MACs: a tensor, a sequence of positional arguments or a mapping of keyword arguments.

    Returns:
        A `Report`; `print` it, or take its fields or `to_json()`.

    Raises:
        SpecError: If the model has no parameters, lies on the meta device, or cannot run on the example input.
        ModelChanged: If a path that a plan shares is gone, or a parameter was quantised.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> _ = share_(net, Tie(rate=2))
        >>> numbers = report(net, torch.zeros(1, 3))
        >>> numbers.stored, numbers.logical, numbers.macs
        (24, 48, 36)
    """
    model = unwrapped(model)
    refuse_foreign(model)
    refuse_wrapped(model.named_parameters(), "be counted")
    groups, codebooks, positions, planned, decoded = [], [], [], set[str](), 0
    for at, plan in applied_plans(model):
        part = model.get_submodule(at)
        for group in plan.groups:
            name = from_root(at, group.name)
            if isinstance(group, Clusters):
                codebooks.append(Clustered(name, group.shape, group.clusters, group.bits, group.index_memory))
            elif isinstance(group, Positions):
                numbers = (group.slots, isinstance(group, Mixtures), group.stored_after, group.index_memory)
                positions.append(SharedPositions(name, group.kernel, group.positions, *numbers))
            if isinstance(group, Decoded):
                decoded += group.numel - group.stored_after
                continue
            if isinstance(group, Banked):
                bank_of(part, group.items)
                intact = True
                decoded += group.stored_before - group.stored_after
            else:
                ties = group.ties
                intact = all(
                    parameter_at(part, other) is parameter_at(part, owner) for owner, *rest in ties for other in rest
                )
            labels = tuple(group.assignment.labels.tolist())
            groups.append(
                SharedGroup(name, group.shape, len(labels), group.stored_slots, labels if group.listed else (), intact)
            )
            planned |= {from_root(at, path) for path in group.items}
    counts = count(model)
    return Report(
        model=type(model).__name__,
        stored=counts.stored,
        logical=counts.logical + decoded,
        distinct=distinct_values(model),
        bytes=counts.bytes,
        buffer_bytes=counts.buffer_bytes,
        macs=None if example_input is None else macs(model, example_input),
        groups=tuple(groups),
        codebooks=tuple(codebooks),
        local=tuple(_local(path, one) for path, one in model.named_modules() if _has_kernels(one)),
        positions=tuple(positions),
        other_ties=tuple(site.names for site in sites(model) if site.aliases and not planned.intersection(site.names)),
    )


def _has_kernels(module: nn.Module) -> bool:
    """Whether it is a local layer that stores a kernel for each position; one whose positions share is listed apart."""
    return isinstance(module, LocalLayer) and "weight" in module._parameters


def _local(path: str, layer: Any) -> Local:
    kernels, sharing = layer.kernels(), space_sharing(layer)
    modules = Lattice().assignment(layer).slots
    return Local(path, layer.positions, kernels[0].numel(), modules, *sharing.noise)
