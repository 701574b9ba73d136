"""Soft sharing across depth: the weight of each layer is a mixture of templates that all layers of a group share.

    W_i = Σ_j α_ij T_j

A group of `L` layers of `d` numbers stores `k` templates and `L` rows of `k` coefficients, `k(L + d)` numbers instead
of `L·d`. All of it is trained as it is. Layers whose coefficients become parallel do the same but for a scale: the
layer similarity matrix says which, and `fold` makes one layer of them, in a loop.

Where in the grid: items are layers, slots are templates, and the assignment is soft and trained.
Source: Savarese 2019; Wang 2024 (Basis Sharing) for the start from trained weights.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from weightshare._table import shape_text
from weightshare.decoding import mix, refuse_nonfinite
from weightshare.depth.budget import allocate, checked_budget, in_numbers
from weightshare.depth.mixable import common_name, refused, vector
from weightshare.depth.mixing import mixtures
from weightshare.depth.notes import of_dtypes
from weightshare.depth.starts import Init, lost_at_start, start
from weightshare.depth.widths import checked_shapes, differs_in_width, envelope, leading, shapes_text
from weightshare.errors import FileError, ModelChanged, SpecError
from weightshare.generating import Bank, Banked, bank_of, leave_bank_, read_bank_
from weightshare.sharing import Assignment, LeftOut, Spec
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, places
from weightshare.surgery.sites import Site

Within = Literal["stage", "model"]


@dataclass(frozen=True)
class TemplateGroup(Banked):
    """Layers whose weights are mixtures of common templates.

    Args:
        name: The paths, with `*` where they differ.
        items: Path of each weight, in the order of the model.
        shape: Of a template; of every weight too, unless `shapes` says otherwise.
        dtype: Of weights, templates and coefficients.
        assignment: Each layer reads a mixture of its own.
        templates: How many are stored.
        error: What the start loses of trained weights, `‖W − A·T‖ / ‖W‖` over all layers; `None` where it does not keep
            them, or they had no numbers yet.
        shapes: Of each weight, where they differ in width: leading slices of a template. Else empty.
    """

    templates: int
    error: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    columns: ClassVar[tuple[str, ...]] = (
        *("group", "weight", "layers", "templates", "coefficients"),
        *("error of the start", "stored before", "after"),
    )
    numbers: ClassVar[tuple[str, ...]] = columns[2:]
    listed: ClassVar[bool] = False  # each layer reads all of them

    @property
    def coefficients(self) -> int:
        """How many there are."""
        return len(self.items) * self.templates

    @property
    def stored_slots(self) -> int:
        return self.templates

    def shape_of(self, item: int) -> tuple[int, ...]:
        return self.shapes[item] if self.shapes else self.shape

    @property
    def stored_before(self) -> int:
        return sum(math.prod(self.shape_of(item)) for item in range(len(self.items)))

    @property
    def stored_after(self) -> int:
        return self.templates * self.numel + self.coefficients

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        error = "" if self.error is None else f"{self.error:.2%}"
        counts = (len(self.items), self.templates, self.coefficients, error)
        return self.name, shapes_text(self.shape, self.shapes), *counts, self.stored_before, self.stored_after

    @staticmethod
    def note(groups: "Sequence[TemplateGroup]") -> str:
        """What becomes of the numbers when the model is folded."""
        numbers = sum(group.stored_before for group in groups)
        return f"{numbers:,} numbers in these groups once they are folded into dense weights; a file keeps them small."

    def _own_entry(self) -> dict[str, Any]:
        return {"templates": self.templates, "error": self.error, **({"shapes": self.shapes} if self.shapes else {})}

    @classmethod
    def _labels(cls, entry: Mapping[str, Any]) -> list[int]:
        return list(range(len(entry["items"])))

    @classmethod
    def _own_fields(cls, entry: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        templates, error = entry["templates"], entry["error"]
        if type(templates) is not int or not 1 <= templates * max(1, math.prod(shape)) < 2**62:
            raise FileError(f"Group {entry['name']!r} of the plan has templates={templates!r}: need a count from 1.")
        if error is not None and (type(error) is not float or not 0 <= error <= 1):
            raise FileError(f"Group {entry['name']!r} of the plan has error={error!r}: need 0 to 1, or nothing.")
        shapes = checked_shapes(str(entry["name"]), entry.get("shapes", ()), len(entry["items"]), shape)
        return {"templates": templates, "error": error, "shapes": shapes}


class TemplateBank(Bank):
    """Templates and coefficients of a group of layers: all weights are one matrix product, `W = A·T`.

    Args:
        templates: `(templates, *weight)`.
        coefficients: `(layers, templates)`.
        shapes: Of each layer's weight, a leading slice of a template in the first two dimensions; empty if all are as
            large as one.

    Example:
        >>> bank = TemplateBank(nn.Parameter(torch.eye(2)), nn.Parameter(torch.tensor([[1.0, 0.5], [0.0, 3.0]])))
        >>> [weight.tolist() for weight in bank()]
        [[1.0, 0.5], [0.0, 3.0]]
    """

    def __init__(
        self, templates: nn.Parameter, coefficients: nn.Parameter, shapes: Sequence[tuple[int, ...]] = ()
    ) -> None:
        super().__init__()
        self.templates = templates
        self.coefficients = coefficients
        self.shapes = tuple(shapes)

    def make(self) -> Sequence[Tensor]:
        made = mixtures(self.coefficients, self.templates)
        if not self.shapes:
            return made
        return [leading(whole, shape).contiguous() for whole, shape in zip(made, self.shapes, strict=True)]

    def make_one(self, layer: int) -> Tensor:
        templates = leading(self.templates, self.shapes[layer], at=1) if self.shapes else self.templates
        return mix(self.coefficients[layer : layer + 1], templates)[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What `.to()` and its like do to every tensor, to templates as one row each.

        Their own shape has a dimension more than a weight's: `.to(memory_format=torch.channels_last)` could not do it.
        A codebook that they read has one dimension.
        """
        return super()._apply(
            lambda tensor: fn(tensor.flatten(1)).reshape(tensor.shape) if tensor.ndim > 1 else fn(tensor), recurse
        )

    def own_names(self) -> set[str]:
        """The coefficients."""
        return {"coefficients"}

    def layers_of(self, name: str) -> Sequence[int]:
        """All of them: a template is in every mixture, and coefficients stand in one matrix."""
        return range(len(self.coefficients))

    def extra_repr(self) -> str:
        """For `print(model)`."""
        layers, templates = self.coefficients.shape
        sliced = ", read in leading slices" if self.shapes else ""
        return f"{layers} layers, {templates} templates of shape {shape_text(tuple(self.templates.shape[1:]))}{sliced}"


@dataclass(frozen=True, repr=False)
class Templates(Spec):
    """The weights of a group of layers are mixtures of templates that they share: `W_i = Σ_j α_ij T_j`.

    It fits weights of two or more dimensions, of any layer that reads them by name (linear, convolutions of 1 to 3
    dimensions, attention), and leaves vectors and norms as they are. Weights of equal shape and dtype form a group,
    whatever their role in a block: the two convolutions of a residual block share templates too.

    Args:
        templates: How many each group stores, at least 1. With one for each layer nothing is saved, and the network
            trains otherwise all the same. `None` where a budget says it.
        init: How coefficients start. `orthogonal`: orthonormal columns, rows scaled to `‖α_i‖ = 1`, so that weights
            have the variance of the templates; `sparse`: layer `i` reads template `i mod k` alone; in both, templates
            start as the weights of the first layers. `from_pretrained`: templates and coefficients nearest to the
            weights that there are, by singular value decomposition; the plan says what is lost.
        within: What a group is: layers of one `stage`, which is a list of repeated blocks, or of the whole `model`,
            wherever the pattern finds them.
        across_widths: Whether layers that differ only in the first two dimensions of their weights, outputs and inputs,
            form one group. Templates are as large as the widest, and a layer reads the leading slice of its mixture,
            scaled at the start so that its weights keep their own size. Not for `from_pretrained`.
        budget: Instead of `templates`: how many numbers the whole model may store, a count, or a fraction of those that
            it stores now. Groups get as many templates as fit, as evenly as they can (`depth.budget`).

    Raises:
        SpecError: If a value is out of range, or both or neither of templates and budget are given.

    Source: Savarese 2019 (poster), "Soft parameter sharing"; Plummer 2022 for widths and budgets. Differs: coefficients
    start with rows of length 1, so that activations keep their scale whatever `k` is; `depth.widths`, `depth.budget`.

    Example:
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(*(nn.Linear(7, 7) for _ in range(6)))
        >>> plan = make_plan(net, Templates(2), None)
        >>> plan.stored_before, plan.stored_after  # 2 · (6 + 49), and six biases of 7
        (336, 152)
    """

    templates: int | None = None
    init: Init = "orthogonal"
    within: Within = "stage"
    across_widths: bool = False
    budget: float | int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            checked_budget(self.budget)
            if self.templates is not None:
                raise SpecError(f"{self!r}: give templates, the same for all groups, or a budget, not both.")
        elif type(self.templates) is not int or not 1 <= self.templates < 2**31:
            raise SpecError(
                f"Templates(templates={self.templates!r}): need a whole number of at least 1, or a budget instead."
            )
        for name, choices in (("init", get_args(Init)), ("within", get_args(Within))):
            if getattr(self, name) not in choices:
                raise SpecError(
                    f"Templates({name}={getattr(self, name)!r}): need one of {', '.join(map(repr, choices))}."
                )
        if type(self.across_widths) is not bool:
            raise SpecError(f"Templates(across_widths={self.across_widths!r}): need True or False.")
        if self.across_widths and self.init == "from_pretrained":
            raise SpecError(
                f"{self!r}: trained layers of different widths have no leading slices in common. Share equal widths, "
                "or train from another start."
            )

    @property
    def kind(self) -> type[TemplateGroup]:
        """Of all its groups."""
        return TemplateGroup

    @property
    def generates(self) -> bool:
        """Always."""
        return True

    def group(
        self, model_sites: Sequence[Site], chosen: Sequence[Site], explicit: bool
    ) -> tuple[list[TemplateGroup], list[LeftOut]]:
        """Sort sites by shape, or all but widths, and dtype, in each stage; see `Spec.group`.

        Raises:
            AlreadyShared: If a site that the pattern names is already one parameter with another path.
            ShapeMismatch: If a group holds frozen and trained weights, or weights on two devices.
            SpecError: If the pattern names a weight that cannot be read from a bank, or the budget is too small for one
                template in each group.
        """
        found = places(model_sites)
        left_out: list[LeftOut] = []
        members = defaultdict[tuple, list[Site]](list)
        for site in chosen:
            place = found[site.path]
            reason = vector(site) or refused(site, explicit)
            stage = place.before if isinstance(place, Place) else ""
            if not reason and self.within == "stage" and isinstance(place, str):
                reason = f"{place} (within='model' does without blocks)"
            if reason:
                left_out.append(LeftOut(site.path, reason))
            else:
                form = differs_in_width(site) if self.across_widths else site.shape
                members[stage if self.within == "stage" else "", form, site.dtype].append(site)
        kept = list[list[Site]]()
        for (stage, *_), sites in members.items():
            if len(sites) > 1:
                paths = [site.path for site in sites]
                edit.common_slot(paths, [site.tensor for site in sites], any_shape=self.across_widths)
                kept.append(sites)
                continue
            where, (site,) = f"in '{stage}' " if stage else "", sites
            reason = f"the only weight of shape {site.shape} and dtype {site.dtype} {where}that the pattern matches"
            but = ", whatever the widths" if self.across_widths else ""
            left_out.append(LeftOut(site.path, f"{reason}{but}"))
        counts = self._counts(model_sites, kept)
        return [self._grouped(sites, count) for sites, count in zip(kept, counts, strict=True)], left_out

    def notes(self, groups: Sequence[TemplateGroup], model_sites: Sequence[Site]) -> list[str]:
        """What a plan warns of: see `Spec.notes`."""
        more = [
            f"'{group.name}' stores {group.stored_after - group.stored_before:,} numbers more than before: "
            f"{group.templates} templates and their coefficients for {len(group.items)} layers."
            for group in groups
            if group.stored_after >= group.stored_before
        ]
        if self.budget is not None:
            stored = sum(site.tensor.numel() for site in model_sites)
            left = in_numbers(self.budget, stored) - stored
            left += sum(group.stored_before - group.stored_after for group in groups)
            full = all(group.templates == len(group.items) for group in groups)
            why = "each layer has a template of its own" if full else "no group has room for one more template"
            more += [f"{left:,} numbers of the budget are left over: {why}."]
        return [*more, *of_dtypes(groups)]

    def share_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """Make the layers of a group read a bank; see `Spec.share_`."""
        tensors = [edit.parameter_at(edits.model, path) for path in group.items]
        edit.common_slot(group.items, tensors, any_shape=self.across_widths)
        with torch.no_grad():
            for path, tensor in zip(group.items, tensors, strict=True):
                refuse_nonfinite(path, tensor)
            templates, coefficients = start(tensors, group.templates, self.init)
        self._bank_(edits, group, tensors[0], templates, coefficients)

    def place_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """Make the layers of a group read a bank that a file will fill; see `Spec.place_`."""
        tensors = [edit.parameter_at(edits.model, path) for path in group.items]
        for item, (path, tensor) in enumerate(zip(group.items, tensors, strict=True)):
            if tuple(tensor.shape) != group.shape_of(item):
                raise ModelChanged(f"'{path}' is {tuple(tensor.shape)}, the plan shares {group.shape_of(item)}.")
        blank = tensors[0].detach().new_zeros(group.templates, *group.shape)
        self._bank_(edits, group, tensors[0], blank, blank.new_zeros(len(group.items), group.templates))

    def unshare_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """Give every layer a parameter with the numbers that it reads; see `Spec.unshare_`."""
        release_(edits, group)

    def fold_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """The same: without our class in it, a model can only hold dense weights. `plan_loops` makes fewer of them."""
        self.unshare_(edits, group)

    def _bank_(
        self,
        edits: edit.Transaction,
        group: TemplateGroup,
        like: nn.Parameter,
        templates: Tensor,
        coefficients: Tensor,
    ) -> None:
        planned = group.templates == self.templates if self.budget is None else group.templates <= len(group.items)
        if not planned or (group.shapes and not self.across_widths):
            raise SpecError(
                f"The plan has {group.templates} templates for '{group.name}', of {len(group.items)} layers of "
                f"{len({*group.shapes}) or 1} shapes; {self!r} has others: plan again."
            )
        # Row by row in memory, which a decomposition does not give: fused optimizers read numbers as they lie there.
        templates, coefficients = templates.contiguous(), coefficients.contiguous()
        own = nn.Parameter(coefficients, like.requires_grad)
        bank = TemplateBank(edit.like_parameter(like, templates), own, group.shapes)
        read_bank_(edits, group.name, group.items, bank)

    def _counts(self, model_sites: Sequence[Site], members: Sequence[Sequence[Site]]) -> list[int]:
        """How many templates each group stores, given its sites."""
        if self.templates is not None or self.budget is None:
            return [self.templates or 1] * len(members)
        if not members:
            return []
        stored = sum(site.tensor.numel() for site in model_sites)
        apart = stored - sum(site.tensor.numel() for sites in members for site in sites)
        room = in_numbers(self.budget, stored)
        sizes = [(len(sites), math.prod(envelope([site.shape for site in sites]))) for sites in members]
        least = apart + sum(layers + numel for layers, numel in sizes)
        if room < least:
            raise SpecError(
                f"{self!r}: the model may store {room:,} of {stored:,} numbers, and with one template in each of "
                f"{len(members)} groups it stores {least:,}, of which {apart:,} lie outside of them. Give at least "
                f"budget={least}, or share more weights."
            )
        return allocate(sizes, room - apart)

    def _grouped(self, sites: Sequence[Site], templates: int) -> TemplateGroup:
        paths, shapes = tuple(site.path for site in sites), tuple(site.shape for site in sites)
        error = None
        if self.init == "from_pretrained" and not any(site.tensor.is_meta for site in sites):
            error = lost_at_start([site.tensor for site in sites], templates)
        each = Assignment.of(range(len(sites)))
        unequal = shapes if len({*shapes}) > 1 else ()
        return TemplateGroup(
            common_name(paths), paths, envelope(shapes), sites[0].dtype, each, templates, error, unequal
        )


def release_(edits: edit.Transaction, group: TemplateGroup) -> list[nn.Parameter]:
    """Give every layer of a group a parameter with the numbers that it reads, and take its bank away."""
    bank = bank_of(edits.model, group.items)
    assert isinstance(bank, TemplateBank)
    with torch.no_grad():
        weights = [edit.like_parameter(bank.templates, weight.detach().clone()) for weight in bank()]
    leave_bank_(edits, group.items, weights)
    return weights
