"""The bank of layers that share across depth: slots, or what they are fused from, and what is each layer's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weightshare._table import run_text, shape_text
from weightshare.depth.fuse import Through
from weightshare.errors import FileError
from weightshare.generating import Bank, Banked, Own, bank_of, leave_bank_
from weightshare.sharing import Assignment
from weightshare.surgery import edit
from weightshare.surgery.compare import same_numbers


@dataclass(frozen=True)
class Generated(Banked):
    """Layers whose weights one bank makes in each forward pass.

    Args:
        name: The role.
        items: Path of each weight, in the order of the layers.
        shape: Shape of every weight.
        dtype: Such as `float32`.
        assignment: Which layer reads which slot.
        through: Whether all tensors that the slots are fused from stay, and are trained.
        own: Numbers that belong to single layers: transforms, and the learned weights of a fusion.
        dense: Whether each layer's weight is another, so that folding stores all of them.
    """

    through: bool
    own: int
    dense: bool

    columns: ClassVar[tuple[str, ...]] = (
        *("group", "weight", "layers", "slots", "layer reads slot"),
        *("stored before", "after", "own", "folded"),
    )
    numbers: ClassVar[tuple[str, ...]] = ("slots", *columns[5:])

    @property
    def stored_after(self) -> int:
        return (len(self.items) if self.through else self.assignment.slots) * self.numel + self.own

    @property
    def folded(self) -> int:
        """Numbers in memory after `fold`."""
        return (len(self.items) if self.dense else self.assignment.slots) * self.numel

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        *first, before, after = super().row
        return *first, before, after, self.own, self.folded

    @staticmethod
    def note(groups: "Sequence[Generated]") -> str:
        """What becomes of the numbers when the model is folded."""
        own, folded = sum(group.own for group in groups), sum(group.folded for group in groups)
        lines = [f"{folded:,} numbers in these groups once they are folded."]
        if own:
            lines.append(f"{own:,} belong to single layers: transforms, and the weights of a fusion.")
        if any(group.through for group in groups):
            lines.append("All that is fused stays, and is trained, until then.")
        if any(group.dense for group in groups):
            lines.append("Weights with a transform are dense then; a file of the shared model keeps them small.")
        return " ".join(lines)

    def _own_entry(self) -> dict[str, Any]:
        return {**super()._own_entry(), "through": self.through, "own": self.own, "dense": self.dense}

    @classmethod
    def _own_fields(cls, entry: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        through, own, dense = entry["through"], entry["own"], entry["dense"]
        if type(through) is not bool or type(dense) is not bool or type(own) is not int or not 0 <= own < 2**62:
            raise FileError(
                f"Group {entry['name']!r} of the plan has through={through!r}, own={own!r}, dense={dense!r}: need true "
                "or false, a count, and true or false."
            )
        return {"through": through, "own": own, "dense": dense}


class LayerBank(Bank):
    """Slots of a group of layers, what they are made from, and transforms.

    Args:
        stored: The slots, or for a fusion that is trained through the tensors of all layers.
        assignment: Which layer reads which slot.
        fusion: What slots are made by, if not stored themselves.
        own: Transforms of the layers that share, as `sharing` lists them, if any.
    """

    factors: nn.Parameter | None

    def __init__(
        self, stored: Sequence[nn.Parameter], assignment: Assignment, fusion: Through | None, own: Own | None
    ) -> None:
        super().__init__()
        self.stored = nn.ParameterList(stored)
        self.labels = tuple(assignment.labels.tolist())
        self.readers = assignment.readers
        self.fusion = fusion
        self.own = own
        self.rows = {layer: row for row, layer in enumerate(sharing(assignment))}
        like = stored[0].detach()
        shape = None if fusion is None or not self.rows else fusion.learned(tuple(like.shape))
        trained = stored[0].requires_grad
        learned = None if shape is None else nn.Parameter(like.new_ones(len(self.rows), *shape), trained)
        self.register_parameter("factors", learned)

    def make(self) -> Sequence[Tensor]:
        slots = self.slots()
        weights = [slots[label] for label in self.labels]
        if self.own is not None:
            added = self.own.add([weights[layer] for layer in self.rows])
            for layer, weight in zip(self.rows, added, strict=True):
                weights[layer] = weight
        return weights

    def make_one(self, layer: int) -> Tensor:
        slot = self._slot(self.labels[layer])
        return slot if self.own is None or layer not in self.rows else self.own.add_one(slot, self.rows[layer])

    def slots(self) -> list[Tensor]:
        """The value of each slot."""
        return [self._slot(slot) for slot in range(len(self.readers))]

    def own_names(self) -> set[str]:
        """Transforms, and what a fusion learns."""
        factors = set() if self.factors is None else {"factors"}
        return factors | {f"own.{name}" for name, _ in (self.own or nn.Module()).named_parameters()}

    def layers_of(self, name: str) -> Sequence[int]:
        """Those that read the slot which a stored tensor is, or is fused into; of other parameters all."""
        kind, _, number = name.partition(".")
        if kind != "stored":
            return range(len(self.labels))
        return self.readers[int(number) if self.fusion is None else self.labels[int(number)]]

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{run_text(list(self.labels))} of shape {shape_text(tuple(self.stored[0].shape))}"

    def _slot(self, slot: int) -> Tensor:
        if self.fusion is None:
            return self.stored[slot]
        readers = self.readers[slot]
        if len(readers) == 1:
            return self.stored[readers[0]]
        learned = None if self.factors is None else [self.factors[self.rows[layer]] for layer in readers]
        return self.fusion.mix([self.stored[layer] for layer in readers], readers, len(self.labels), learned)


def sharing(assignment: Assignment) -> list[int]:
    """The layers whose slot another layer reads too."""
    return sorted(layer for readers in assignment.readers if len(readers) > 1 for layer in readers)


def release_(edits: edit.Transaction, group: Generated, tied: bool) -> None:
    """Give the layers of a group parameters again, with the numbers that they read.

    Args:
        edits: Of the model.
        group: Of a plan that was applied.
        tied: Whether layers that read one slot hold one parameter. It is the object that the bank stored for the first
            of them.
    """
    bank = bank_of(edits.model, group.items)
    assert isinstance(bank, LayerBank)
    with torch.no_grad():
        weights = [weight.detach().clone() for weight in bank()]
    tensors: list[nn.Parameter] = []
    written: list[nn.Parameter] = []
    for layer, (label, weight) in enumerate(zip(bank.labels, weights, strict=True)):
        leader = bank.readers[label][0]
        if tied and layer != leader:
            tensors.append(tensors[leader])
            continue
        stored = bank.stored[layer if group.through else label]
        claimed = any(stored is other for other in written)  # by a layer of another slot: a later plan tied them
        if (layer == leader or group.through) and not (claimed and not same_numbers(stored, weight)):
            edits.write(stored, weight)
            edits.forget_gradient(stored)
            written.append(stored)
            tensors.append(stored)
        else:
            tensors.append(edit.like_parameter(stored, weight))
    leave_bank_(edits, group.items, tensors)
