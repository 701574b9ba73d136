"""What sharing among the positions of one layer has in common: the group of a plan, and the layer of a weight.

In the grid: items are positions, slots are kernels. A local layer's weight is `(*positions, groups, inner, outer)`, and
a bias of positions `(*positions, out)`; what stands behind the positions is an item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

from torch import nn

from weightshare._table import shape_text
from weightshare.decoding import LOOKUP, MIXTURE, MOST_CLUSTERS, Decoded, expect_count, index_dtype, unreadable
from weightshare.errors import FileError, ModelChanged
from weightshare.sharing import Assignment
from weightshare.space.layer import LocalLayer
from weightshare.surgery import edit
from weightshare.surgery.parametrized import foreign_parametrizations
from weightshare.surgery.sites import Site


@dataclass(frozen=True)
class Positions(Decoded):
    """The kernels of one layer, those of a class of positions stored once: `W_p = S_c(p)`.

    Args:
        name: The weight's path.
        items: The same path, alone.
        shape: Shape of the weight.
        dtype: Of the weight, and of its slots.
        assignment: That of a weight which is stored once. The classes of its positions are a buffer of the model.
        positions: How many there are along each axis: where `shape` begins.
        slots: Kernels that are stored.
    """

    positions: tuple[int, ...]
    slots: int

    rule: ClassVar[str] = LOOKUP
    second: ClassVar[str] = "index"
    columns: ClassVar[tuple[str, ...]] = (
        *("group", "kernel", "positions", "slots", "stored before", "after", "labels in memory"),
    )
    numbers: ClassVar[tuple[str, ...]] = columns[3:]

    @classmethod
    def of(cls, site: Site, slots: int) -> Self:
        """The group of a site of a local layer."""
        layer = site.holder
        assert isinstance(layer, LocalLayer)
        return cls(site.path, (site.path,), site.shape, site.dtype, Assignment.of([0]), layer.positions, slots)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of an item, and of a slot."""
        return self.shape[len(self.positions) :]

    @property
    def stored_after(self) -> int:
        return self.slots * prod(self.kernel)

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.slots, *self.kernel), self.positions

    @property
    def index_memory(self) -> int:
        """Bytes of the labels in memory."""
        return prod(self.positions) * index_dtype(self.slots).itemsize

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        return (
            *(self.name, shape_text(self.kernel), shape_text(self.positions)),
            *(self.slots, self.stored_before, self.stored_after, self.index_memory),
        )

    def _own_entry(self) -> dict[str, Any]:
        return {"positions": self.positions, "slots": self.slots}

    @classmethod
    def _own_fields(cls, entry: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        positions = tuple(int(n) for n in entry["positions"])
        if not positions or shape[: len(positions)] != positions or len(positions) == len(shape):
            raise FileError(f"Group {entry['name']!r} of the plan has positions {positions} and shape {shape}.")
        most = min(MOST_CLUSTERS, prod(positions))
        return {"positions": positions, "slots": expect_count(entry, "slots", most, f"positions {positions}")}


@dataclass(frozen=True)
class Mixtures(Positions):
    """The kernels of one layer, each a mixture of stored ones: `W_p = Σ_r A_pr T_r`.

    Args:
        name: The weight's path.
        items: The same path, alone.
        shape: Shape of the weight.
        dtype: Of the weight, its templates and its coefficients.
        assignment: That of a weight which is stored once. The coefficients of its positions are a parameter.
        positions: How many there are along each axis: where `shape` begins.
        slots: Templates that are stored: the rank.
    """

    rule: ClassVar[str] = MIXTURE
    second: ClassVar[str] = "coefficients"
    columns: ClassVar[tuple[str, ...]] = (
        *("group", "kernel", "positions", "rank", "stored before", "after", "of these: coefficients"),
    )
    numbers: ClassVar[tuple[str, ...]] = columns[3:]

    @property
    def coefficients(self) -> int:
        """How many there are."""
        return prod(self.positions) * self.slots

    @property
    def stored_after(self) -> int:
        return self.slots * prod(self.kernel) + self.coefficients

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.slots, *self.kernel), (prod(self.positions), self.slots)

    @property
    def index_memory(self) -> int:
        return 0

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        return *super().row[:-1], self.coefficients


def local_layer(model: nn.Module, path: str) -> LocalLayer:
    """The local layer whose parameter a path is.

    Raises:
        ModelChanged: If there is none.
    """
    edit.parameter_at(model, path)
    layer = model.get_submodule(path.rpartition(".")[0])
    if not isinstance(layer, LocalLayer):
        raise ModelChanged(f"'{path}' is a parameter of a {type(layer).__name__}, and no local layer's. Plan again.")
    return layer


def unfit(site: Site, parameters: Sequence[str]) -> str:
    """Why the positions of a site cannot share, or nothing.

    Args:
        site: Any.
        parameters: Names of the parameters of a local layer that are meant.
    """
    layer, name = site.holder, site.path.rpartition(".")[2]
    if not isinstance(layer, LocalLayer):
        return "no parameter of a local layer (localize_ makes those of convolutions)"
    if name == "bias" and not layer.bias_at_positions():
        return "one bias for all positions already"
    if name not in parameters:
        return f"no {' or '.join(parameters)} of a local layer, which alone this spec is for"
    if site.shape[: len(layer.positions)] != layer.positions:
        return "its positions are those of the output, and a transposed layer's kernels lie at those of the input"
    if foreign_parametrizations(layer):
        return "its module is parametrized already: take that off first (remove_parametrizations)"
    return unreadable(site)
