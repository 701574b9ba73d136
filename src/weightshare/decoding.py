"""Sharing inside one weight: the weight that a forward pass reads is made from fewer stored numbers at every read.

Where a spec shares layers, several paths hold one parameter. Where it shares parts of one weight, its scalars or its
kernels at positions, nothing but a function of what is stored can give the weight: torch's own parametrization calls
it, so all that knows parametrized modules knows these: state dicts, optimizers, compilers, autocast, copies. What torch
refuses for them (pickling the module itself) it refuses here too.

A new kind of this family says which weights it fits (`group`), what is stored for one (`find`) and how the weight comes
back from that (`decoder`). The rest is here.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weightshare.errors import AlreadyShared, ModelChanged, SpecError
from weightshare.sharing import Decoded, Group, LeftOut, Spec
from weightshare.surgery import edit
from weightshare.surgery.sites import Site


class Decoding(Spec):
    """A spec whose groups are weights made from stored numbers; abstract."""

    kind: ClassVar[type[Group]] = Decoded

    @abstractmethod
    def find(self, model: nn.Module, group: Any) -> tuple[Tensor, Tensor]:
        """What is to be stored for a weight of a model: the slots, and labels or coefficients."""

    @abstractmethod
    def decoder(self, group: Any, second: Tensor) -> nn.Module:
        """What makes the weight from the slots, given labels or coefficients."""

    def share_(self, edits: edit.Transaction, group: Any) -> None:
        """Find what is stored for a weight, and make it read that; see `Spec.share_`."""
        self.read_(edits, group, *self.find(edits.model, group))

    def read_(self, edits: edit.Transaction, group: Any, stored: Tensor, second: Tensor) -> None:
        """Make a weight read what is known already, as a file holds it."""
        (path,) = group.items
        weight = edit.parameter_at(edits.model, path)
        got = tuple(stored.shape), tuple(second.shape)
        if (tuple(weight.shape), got, stored.dtype) != (group.shape, group.stored_shapes, weight.dtype):
            raise ModelChanged(
                f"'{path}' is {tuple(weight.shape)} {weight.dtype}, what is stored for it is {got[0]} {stored.dtype} "
                f"and {got[1]}. Make the model as it was when it was shared."
            )
        decoder = self.decoder(group, second.to(weight.device)).requires_grad_(weight.requires_grad)
        edits.decode(path, decoder, edit.like_parameter(weight, stored.to(weight.device)))

    def unshare_(self, edits: edit.Transaction, group: Any) -> None:
        """Give a weight a dense parameter again; see `Spec.unshare_`."""
        edits.undecode(group.items[0])

    def fold_(self, edits: edit.Transaction, group: Any) -> None:
        """The same: without our class in it, a model can only hold the dense weight. Files keep it small."""
        self.unshare_(edits, group)


def sort_out(
    chosen: Sequence[Site],
    explicit: bool,
    unfit: Any,
    planned: Any,
    verb: str,
    advice: str = "",
) -> tuple[list[Any], list[LeftOut]]:
    """Make each weight that fits a group of its own, where that saves something.

    Args:
        chosen: As for `Spec.group`.
        explicit: As for `Spec.group`.
        unfit: Gives the reason why a site is left out whatever the pattern says, or nothing.
        planned: Gives the group of a site, and the reason why it would save nothing, or nothing.
        verb: What is done to a weight, for messages.
        advice: What to do about one that would not become smaller.

    Raises:
        AlreadyShared: If the pattern names a weight that several paths read.
        SpecError: If it names one that would not become smaller.
    """
    groups: list[Any] = []
    left_out: list[LeftOut] = []
    for site in chosen:
        reason = unfit(site)
        if not reason and site.aliases:
            reason = f"already one parameter with '{site.aliases[0]}'"
            if explicit:
                raise AlreadyShared(
                    f"Cannot {verb} '{site.path}': it is {reason}. Leave it out of the pattern, or give it a "
                    "parameter of its own first (unshare_ does, where a plan tied it)."
                )
        if not reason:
            group, reason = planned(site)
            if not reason:
                groups.append(group)
                continue
            if explicit:
                raise SpecError(f"Cannot {verb} '{site.path}': {reason}.{advice and ' '}{advice}")
        left_out.append(LeftOut(site.path, reason))
    return groups, left_out


def unreadable(site: Site) -> str:
    """Why torch could not make a site's weight from stored numbers, or nothing."""
    if not site.tensor.is_floating_point():
        return f"its numbers are {site.dtype}, which have no means"
    if site.tensor.element_size() < 2:
        return f"its numbers are {site.dtype}, which torch does not compute with"
    if nn.Parameter not in type(site.tensor).__mro__:
        return f"it is a {type(site.tensor).__name__}, whose numbers lie elsewhere"
    return ""


def refuse_labels(keys: tuple[str, str], entries: Mapping[str, Any], what: str) -> None:
    """Refuse labels in a state dict that point nowhere: a GPU would only say that its memory is broken.

    Args:
        keys: Names of the slots and of the labels.
        entries: The state dict.
        what: What the slots are, such as `its codebook has {slots} values`.
    """
    slots, index = entries.get(keys[0]), entries.get(keys[1])
    if isinstance(index, Tensor) and isinstance(slots, Tensor) and index.numel() and not index.is_meta:
        least, most = (int(label) for label in index.aminmax())
        if least < 0 or most >= len(slots):
            raise ModelChanged(
                f"'{keys[1]}' in the state dict has labels from {least} to {most}, {what.format(slots=len(slots))}. "
                "Load the two as they were saved."
            )


def refuse_nonfinite(path: str, weight: Tensor) -> None:
    """Refuse numbers that no sharing can keep."""
    if not bool(weight.isfinite().all()):
        raise SpecError(f"Cannot share '{path}': it holds NaN or infinity. Find out why first.")


def wide(tensor: Tensor) -> Tensor:
    """In float32 or wider, for sums of many numbers."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def mix(coefficients: Tensor, templates: Tensor) -> Tensor:
    """`A·T`, `(positions, ...)`: a mixture of templates for each row of coefficients, whatever autocast says."""
    with torch.autocast(coefficients.device.type, enabled=False):
        return (coefficients @ templates.flatten(1)).view(len(coefficients), *templates.shape[1:])
