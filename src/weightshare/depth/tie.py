"""Hard sharing across depth: layers of one role read one parameter.

Where in the grid: items are the layers of a repeated block, slots are whole weights, and the assignment has one 1 in a
row. Source: Lin 2022 (SPIN), section 3.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Real
from typing import Any
import warnings

import torch
from torch import Tensor, nn

from weightshare.depth.bank import Generated, LayerBank, release_, sharing
from weightshare.depth.fuse import ChannelWeighted, Fusion, ScalarWeighted, Through, first
from weightshare.depth.notes import of_batch_norm, of_dtypes, of_rate, of_stages
from weightshare.depth.topology import Order, Spread, checked_slots, labels, listed_labels, sequential, uniform
from weightshare.depth.transform import Transform
from weightshare.errors import AlreadyShared, SharingWarning, SpecError
from weightshare.generating import read_bank_
from weightshare.sharing import Assignment, Group, LeftOut, Spec
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, places
from weightshare.surgery.parametrized import buffered
from weightshare.surgery.quantised import ADVICE, beside_quantised, quantised
from weightshare.surgery.sites import Site


@dataclass(frozen=True, repr=False)
class Tie(Spec):
    """Layers of one role read one parameter.

    Sites form a group when they have the same path before and after the block index, the same shape and dtype, and lie
    in blocks of equal structure; so no group ever holds two sites of one block. To share inside each of several equal
    stages, where the stages themselves are the outermost blocks, plan each stage as a model of its own.

    Args:
        rate: Share rate `L/P`: how many layers read a slot, from 1 to the group's depth; it need not divide it, nor be
            a whole number: `L` layers read `⌈L / rate⌉` slots, so `rate=2.5` makes 2 slots of 5 layers, and the plan
            says what it came to.
        order: `sequential`, `strided`, `random(seed)`, or an `Order` of your own.
        slots: Instead of a rate: the slot of each layer, every slot from 0, with no hole. Where several lists of blocks
            are to share, each in its own way: a mapping from the path of such a list to the slot of each of its blocks,
            by index; lists of blocks that it does not name are left out.
        fuse: What a slot starts from: `first`, `mean`, `weighted_mean(weights)`, those of `fuse`, or a `Fusion` of your
            own; `through(fusion)` trains all that is fused.
        spread: Which layers share: `uniform` for all; `front`, `middle` or `back` for one third.
        own: What each layer that shares adds of its own to what it reads: `transform.LoRA(rank)`, `transform.Scale()`,
            or nothing.

    Raises:
        SpecError: If a value is out of range, or both `rate` and `slots` are given, or neither.

    Source: Lin 2022, section 3. Differs: nothing from the paper, which shares isotropic blocks only. Blocks of one list
    that differ in structure (a gate in every second one) form groups of their own.

    Example:
        >>> Tie(rate=2)
        Tie(rate=2)
        >>> Tie(slots=[0, 1, 1, 0])
        Tie(slots=(0, 1, 1, 0))
        >>> Tie(slots={"layer1": [0, 1, 1], "layer2": [0, 0, 0, 1]})
        Tie(slots=(('layer1', (0, 1, 1)), ('layer2', (0, 0, 0, 1))))
    """

    rate: float | None = None
    order: Order = sequential
    slots: tuple[Any, ...] | None = None
    fuse: Fusion = first
    spread: Spread = uniform
    own: Transform | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.slots is None):
            raise SpecError(
                "Tie needs either a share rate or a list of slots, such as Tie(rate=2) or Tie(slots=[0, 0, 1])."
            )
        if self.rate is not None:
            object.__setattr__(self, "rate", _checked_rate(self.rate))
        if self.slots is not None:
            object.__setattr__(self, "slots", checked_slots(self.slots))
            if self.order != sequential or self.spread != uniform:
                raise SpecError("Tie(slots=...) says where every layer reads: leave order and spread out.")
        for name, kind, choices in (
            ("order", Order, "sequential, strided or random(seed=0)"),
            ("fuse", Fusion, "first, mean, weighted_mean([...]) or through(mean)"),
            ("spread", Spread, "uniform, front, middle or back"),
            ("own", Transform, "LoRA(rank=8), Scale() or nothing"),
        ):
            value = getattr(self, name)
            if name == "own" and value is None:
                continue
            if not isinstance(value, kind):
                raise SpecError(f"Tie({name}={value!r}): give {choices}, or a {kind.__name__} of your own.")
            if "__dataclass_fields__" not in vars(type(value)):
                raise SpecError(
                    f"Tie({name}=...): make {type(value).__name__} a frozen dataclass, so that plans hold it."
                )
        if isinstance(self.fuse, ScalarWeighted | ChannelWeighted):
            raise SpecError(
                f"Tie(fuse={self.fuse!r}) learns its weights, so it needs through({self.fuse!r}); weighted_mean([...]) "
                "takes given ones."
            )

    @property
    def kind(self) -> type[Group]:
        """Of all its groups: those of a transform, or of a fusion that is trained through, are generated."""
        return Group if self.own is None and not isinstance(self.fuse, Through) else Generated

    @property
    def generates(self) -> bool:
        """Whether it has a transform, or a fusion that is trained through."""
        return self.kind is Generated

    def reads_as(self, other: Spec) -> bool:
        """Groups say which layer reads what; a fusion that is not trained through is over once it has been applied."""
        through = isinstance(self.fuse, Through) or (isinstance(other, Tie) and isinstance(other.fuse, Through))
        return isinstance(other, Tie) and self.own == other.own and (self.fuse == other.fuse or not through)

    @property
    def reads_batches(self) -> bool:
        """Whether the fusion does."""
        return self.fuse.reads_batches

    def group(
        self, model_sites: Sequence[Site], chosen: Sequence[Site], explicit: bool
    ) -> tuple[list[Group], list[LeftOut]]:
        """Sort sites by role; see `Spec.group`.

        Raises:
            AlreadyShared: If a site that the pattern names is already one parameter with another path.
            ShapeMismatch: If one list of slots would tie sites of different shape or dtype, or a frozen one to others.
            SpecError: If the rate is above a group's depth, or the list of slots is not as long as it. Where nobody
                named that group, it is left out, and this is raised only if no other group is left. If the pattern
                names a quantised weight.
        """
        found = places(model_sites)
        left_out: list[LeftOut] = []
        roles = defaultdict[tuple, list[tuple[Place, Site]]](list)
        for site in chosen:
            place = found[site.path]
            shared = f"already one parameter with '{site.aliases[0]}'" if site.aliases else ""
            unfit_for_all = quantised(site.tensor) or buffered(site)
            if explicit and quantised(site.tensor):
                raise SpecError(f"Cannot tie '{site.path}': {unfit_for_all}. {ADVICE}.")
            if shared and explicit:
                raise AlreadyShared(
                    f"Cannot tie '{site.path}': it is {shared}. Leave it out of the pattern, or give it a parameter of "
                    "its own first (unshare_ does, where a plan tied it)."
                )
            alone = shared or unfit_for_all or ("" if explicit else beside_quantised(site))
            if alone or isinstance(place, str):
                left_out.append(LeftOut(site.path, alone or str(place)))
            else:
                roles[place.before, place.after, site.shape, site.dtype, place.kind].append((place, site))
        unknown = set(self.by_list or ()) - {place.before for members in roles.values() for place, _ in members}
        if unknown:
            there = sorted({place.before for members in roles.values() for place, _ in members})
            raise SpecError(f"Tie(slots=...) names {sorted(unknown)}, the pattern matches blocks in {there}.")
        self._refuse_mixed(list(roles.values()))
        groups: list[Group] = []
        unfit: list[SpecError] = []
        for members in roles.values():
            if len(members) == 1:
                _, site = members[0]
                reason = (
                    f"the only site of its role, shape {site.shape} and dtype {site.dtype} that the pattern matches"
                )
                left_out.append(LeftOut(site.path, reason))
            else:
                try:
                    groups.append(self._assigned(sorted(members, key=lambda member: member[0].index)))
                except SpecError as error:
                    if explicit:
                        raise
                    unfit.append(error)
                    left_out += [LeftOut(site.path, str(error).rstrip(".")) for _, site in members]
        if unfit and not groups:
            raise unfit[0]
        return groups, left_out

    def notes(self, groups: Sequence[Group], model_sites: Sequence[Site]) -> list[str]:
        """What a plan warns of: see `Spec.notes`, and `depth.notes` for what it says.

        Warns:
            SharingWarning: If batch norm is shared: it would diverge only once it is trained.
        """
        shared = of_batch_norm(groups, model_sites)
        for note in shared:
            warnings.warn(note, SharingWarning, stacklevel=4)
        return [*shared, *of_stages(groups, model_sites), *of_dtypes(groups), *of_rate(self.rate, groups)]

    def slot_values(self, group: Group, tensors: Sequence[Tensor], known: Any = None) -> list[Tensor]:
        """Fuse the values of each slot's readers, both in order. Changes nothing that it is given.

        Args:
            group: Of the layers.
            tensors: Of each of them.
            known: What the fusion learned before (`Fusion.prepare`).

        Raises:
            SpecError: If the fusion gives what no slot can hold.
        """
        values = []
        for readers in group.assignment.readers:
            held = tensors[readers[0]]
            value = held
            if len(readers) > 1:
                value = self.fuse.value(torch.stack([tensors[layer] for layer in readers]), readers, group, known)
            if not isinstance(value, Tensor) or value.shape != held.shape or value.dtype != held.dtype:
                got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
                raise SpecError(
                    f"The fusion of '{group.name}' gives {got}, the slot needs {tuple(held.shape)} {held.dtype}: "
                    f"{self!r}."
                )
            values.append(value)
        return values

    def share_groups_(self, edits: edit.Transaction, groups: Sequence[Group], batches: Iterable[Any] | None) -> None:
        """Let the fusion prepare, then share every group; see `Spec.share_groups_`."""
        known = self.fuse.prepare(edits, groups, batches)
        for group in groups:
            self.share_(edits, group, known)

    def share_(self, edits: edit.Transaction, group: Group, known: Any = None) -> None:
        """Make the readers of each slot read the parameter of the first, with the fused numbers; see `Spec.share_`.

        Args:
            edits: Of the model.
            group: Of the plan.
            known: What the fusion learned before (`Fusion.prepare`).
        """
        tensors = [edit.parameter_at(edits.model, path) for path in group.items]
        for readers in group.assignment.readers:
            edit.common_slot([group.items[item] for item in readers], [tensors[item] for item in readers])
        with torch.no_grad():
            values = self.slot_values(group, tensors, known)
        if isinstance(group, Generated):
            self._generate_(edits, group, tensors, values)
            return
        for tie, readers, value in zip(group.ties, group.assignment.readers, values, strict=True):
            owner = tensors[readers[0]]
            if len(tie) > 1:
                edits.write(owner, value)
                edits.forget_gradient(owner)
            for path in tie[1:]:
                edits.put(path, owner)

    def place_(self, edits: edit.Transaction, group: Group) -> None:
        """Make the layers of a generated group read a bank that a file will fill; see `Spec.place_`."""
        if isinstance(group, Generated):
            self._bank_(edits, group, [edit.parameter_at(edits.model, path) for path in group.items])

    def unshare_(self, edits: edit.Transaction, group: Group) -> None:
        """Give every reader a copy of its slot; the first keeps the slot's object. See `Spec.unshare_`."""
        if isinstance(group, Generated):
            release_(edits, group, tied=False)
        else:
            edit.untie(edits, group.ties)

    def fold_(self, edits: edit.Transaction, group: Group) -> None:
        """Write slots out: layers that read one as it is hold one parameter; others are dense. See `Spec.fold_`."""
        if isinstance(group, Generated):
            release_(edits, group, tied=not group.dense)

    def _generate_(
        self, edits: edit.Transaction, group: Generated, tensors: Sequence[nn.Parameter], values: Sequence[Tensor]
    ) -> None:
        before = [tensor.detach().clone() for tensor in tensors] if self.own is not None else []
        if not group.through:
            for readers, value in zip(group.assignment.readers, values, strict=True):
                edits.write(tensors[readers[0]], value)
        for tensor in tensors:
            edits.forget_gradient(tensor)
        bank = self._bank_(edits, group, tensors)
        if self.own is not None and bank.own is not None:
            labels = group.assignment.labels.tolist()
            self.own.fit(bank.own, [before[at] for at in bank.rows], [values[labels[at]] for at in bank.rows])

    def _bank_(self, edits: edit.Transaction, group: Generated, tensors: Sequence[nn.Parameter]) -> LayerBank:
        planned = {"through": group.through, "own": group.own, "dense": group.dense}
        meant = self._of_bank(group.shape, group.assignment)
        if planned != meant:
            raise SpecError(f"The plan says {planned} of '{group.name}', {self!r} gives {meant}: plan again.")
        stored = tensors if group.through else [tensors[readers[0]] for readers in group.assignment.readers]
        own = None
        if self.own is not None and group.dense:
            own = self.own.blank(len(sharing(group.assignment)), tensors[0].detach())
            own.requires_grad_(tensors[0].requires_grad)
        fusion = self.fuse if isinstance(self.fuse, Through) else None
        bank = LayerBank(stored, group.assignment, fusion, own)
        read_bank_(edits, group.name, group.items, bank)
        return bank

    def _assigned(self, members: Sequence[tuple[Place, Site]]) -> Group:
        place, site = members[0]
        items = tuple(member.path for _, member in members)
        try:
            slots = self._labels(items, [member.index for member, _ in members], place.before)
            group = self._group(place.role, items, site, Assignment.of(slots))
        except SpecError as error:
            raise SpecError(f"Cannot tie '{place.role}' of shape {site.shape}: {error}") from error
        for readers in group.assignment.readers:
            edit.common_slot([items[layer] for layer in readers], [members[layer][1].tensor for layer in readers])
        return group

    def _labels(self, items: Sequence[str], indices: Sequence[int], before: str) -> Sequence[int]:
        """The slot of each layer of a group, in the blocks of these indices in the list of blocks `before`."""
        if self.slots is None:
            return labels(len(items), self.rate or 1, self.order, self.spread)
        if self.by_list is not None:
            return listed_labels(self.by_list, before, indices)
        if len(self.slots) != len(items):
            raise SpecError(f"the list has {len(self.slots)} slots, the group has {len(items)} layers: {list(items)}")
        return self.slots

    @property
    def by_list(self) -> dict[str, tuple[int, ...]] | None:
        """The slots of each list of blocks by its path, if they are given so."""
        return dict(self.slots) if self.slots is not None and isinstance(self.slots[0], tuple) else None

    def _group(self, role: str, items: tuple[str, ...], site: Site, assignment: Assignment) -> Group:
        plain = (role, items, site.shape, site.dtype, assignment)
        if self.kind is Group:
            return Group(*plain)
        if isinstance(site.holder, nn.RNNBase):
            raise SpecError(
                f"{type(site.holder).__name__} reads its weights from a list of its own, which generated ones never "
                "reach: tie it without a transform, and with a fusion that is not trained through"
            )
        return Generated(*plain, **self._of_bank(site.shape, assignment))

    def _of_bank(self, shape: tuple[int, ...], assignment: Assignment) -> dict[str, Any]:
        """What a generated group says beside what every group does."""
        members = len(sharing(assignment))
        fits = self.own is not None and bool(members) and self.own.fits(shape)
        own = members * self.own.numbers(shape) if self.own is not None and fits else 0
        learned = self.fuse.learned(shape) if isinstance(self.fuse, Through) else None
        own += 0 if learned is None else members * prod(learned)
        return {"through": isinstance(self.fuse, Through), "own": own, "dense": fits}

    def _refuse_mixed(self, roles: Sequence[Sequence[tuple[Place, Site]]]) -> None:
        """One list of slots that is as long as several groups of one role together would tie what cannot be tied."""
        if self.slots is None or self.by_list is not None:
            return
        by_role = defaultdict[str, list[tuple[Place, Site]]](list)
        for members in roles:
            by_role[members[0][0].role].extend(members)
        for members in by_role.values():
            members.sort(key=lambda member: member[0].index)
            if len(members) == len(self.slots):
                for readers in Assignment.of(self.slots).readers:
                    read = [members[layer][1] for layer in readers]
                    edit.common_slot([site.path for site in read], [site.tensor for site in read])


def _checked_rate(rate: Any) -> int | float:
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 1 <= rate < 2**63:  # type: ignore[operator]
        raise SpecError(
            f"Tie(rate={rate!r}): a share rate is the number of layers that read one slot, 1 (nothing shared) or more."
        )
    value = float(rate)
    return int(value) if value.is_integer() else value
