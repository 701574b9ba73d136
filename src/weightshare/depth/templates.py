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
from weightshare.decoding import mix, refuse_nonfinite, wide
from weightshare.depth.nearest import gram, nearest, orthonormal
from weightshare.depth.notes import of_dtypes
from weightshare.errors import AlreadyShared, FileError, SpecError
from weightshare.generating import Bank, Banked, bank_of, leave_bank_, read_bank_
from weightshare.sharing import Assignment, LeftOut, Spec
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, in_norm, places
from weightshare.surgery.parametrized import buffered
from weightshare.surgery.quantised import ADVICE, beside_quantised, quantised
from weightshare.surgery.sites import Site

Init = Literal["orthogonal", "sparse", "from_pretrained"]
Within = Literal["stage", "model"]


@dataclass(frozen=True)
class TemplateGroup(Banked):
    """Layers whose weights are mixtures of common templates.

    Args:
        name: The paths, with `*` where they differ.
        items: Path of each weight, in the order of the model.
        shape: Of every weight, and of a template.
        dtype: Of weights, templates and coefficients.
        assignment: Each layer reads a mixture of its own.
        templates: How many are stored.
        error: What the start loses of trained weights, `‖W − A·T‖ / ‖W‖` over all layers; `None` where it does not keep
            them, or they had no numbers yet.
    """

    templates: int
    error: float | None = None

    columns: ClassVar[tuple[str, ...]] = (
        *("group", "weight", "layers", "templates", "coefficients"),
        *("error of the start", "stored before", "after"),
    )
    numbers: ClassVar[tuple[str, ...]] = columns[2:]

    @property
    def coefficients(self) -> int:
        """How many there are."""
        return len(self.items) * self.templates

    @property
    def stored_slots(self) -> int:
        return self.templates

    @property
    def stored_after(self) -> int:
        return self.templates * self.numel + self.coefficients

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        error = "" if self.error is None else f"{self.error:.2%}"
        counts = (len(self.items), self.templates, self.coefficients, error)
        return self.name, shape_text(self.shape), *counts, self.stored_before, self.stored_after

    @staticmethod
    def note(groups: "Sequence[TemplateGroup]") -> str:
        """What becomes of the numbers when the model is folded."""
        numbers = sum(group.stored_before for group in groups)
        return f"{numbers:,} numbers in these groups once they are folded into dense weights; a file keeps them small."

    def _own_entry(self) -> dict[str, Any]:
        return {"templates": self.templates, "error": self.error}

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
        return {"templates": templates, "error": error}


class TemplateBank(Bank):
    """Templates and coefficients of a group of layers: all weights are one matrix product, `W = A·T`.

    Args:
        templates: `(templates, *weight)`.
        coefficients: `(layers, templates)`.

    Example:
        >>> bank = TemplateBank(nn.Parameter(torch.eye(2)), nn.Parameter(torch.tensor([[1.0, 0.5], [0.0, 3.0]])))
        >>> [weight.tolist() for weight in bank()]
        [[1.0, 0.5], [0.0, 3.0]]
    """

    def __init__(self, templates: nn.Parameter, coefficients: nn.Parameter) -> None:
        super().__init__()
        self.templates = templates
        self.coefficients = coefficients

    def make(self) -> Sequence[Tensor]:
        # Not rows by index: the gradient of each would be as large as all layers together.
        return mix(self.coefficients, self.templates).unbind()

    def make_one(self, layer: int) -> Tensor:
        return mix(self.coefficients[layer : layer + 1], self.templates)[0]

    def own_names(self) -> set[str]:
        """The coefficients."""
        return {"coefficients"}

    def extra_repr(self) -> str:
        """For `print(model)`."""
        layers, templates = self.coefficients.shape
        return f"{layers} layers, {templates} templates of shape {shape_text(tuple(self.templates.shape[1:]))}"


@dataclass(frozen=True, repr=False)
class Templates(Spec):
    """The weights of a group of layers are mixtures of templates that they share: `W_i = Σ_j α_ij T_j`.

    It fits weights of two or more dimensions, of any layer that reads them by name (linear, convolutions of 1 to 3
    dimensions, attention), and leaves vectors and norms as they are. Weights of equal shape and dtype form a group,
    whatever their role in a block: the two convolutions of a residual block share templates too.

    Args:
        templates: How many each group stores, at least 1. With one for each layer nothing is saved, and the network
            trains otherwise all the same.
        init: How coefficients start. `orthogonal`: orthonormal columns, rows scaled to `‖α_i‖ = 1`, so that weights
            have the variance of the templates; `sparse`: layer `i` reads template `i mod k` alone; in both, templates
            start as the weights of the first layers. `from_pretrained`: templates and coefficients nearest to the
            weights that there are, by singular value decomposition; the plan says what is lost.
        within: What a group is: layers of one `stage`, which is a list of repeated blocks, or of the whole `model`,
            wherever the pattern finds them.

    Raises:
        SpecError: If a value is out of range.

    Source: Savarese 2019 (poster), "Soft parameter sharing". Differs: coefficients start with rows of length 1, so that
    activations keep their scale whatever `k` is.

    Example:
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(*(nn.Linear(7, 7) for _ in range(6)))
        >>> plan = make_plan(net, Templates(2), None)
        >>> plan.stored_before, plan.stored_after  # 2 · (6 + 49), and six biases of 7
        (336, 152)
    """

    templates: int
    init: Init = "orthogonal"
    within: Within = "stage"

    def __post_init__(self) -> None:
        if type(self.templates) is not int or not 1 <= self.templates < 2**31:
            raise SpecError(f"Templates(templates={self.templates!r}): need a whole number of at least 1.")
        for name, choices in (("init", get_args(Init)), ("within", get_args(Within))):
            if getattr(self, name) not in choices:
                raise SpecError(
                    f"Templates({name}={getattr(self, name)!r}): need one of {', '.join(map(repr, choices))}."
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
        """Sort sites by shape and dtype, in each stage; see `Spec.group`.

        Raises:
            AlreadyShared: If a site that the pattern names is already one parameter with another path.
            ShapeMismatch: If a group holds frozen and trained weights, or weights on two devices.
            SpecError: If the pattern names a weight that cannot be read from a bank.
        """
        found = places(model_sites)
        left_out: list[LeftOut] = []
        members = defaultdict[tuple, list[Site]](list)
        for site in chosen:
            place = found[site.path]
            reason = _vector(site) or _refused(site, explicit)
            stage = place.before if isinstance(place, Place) else ""
            if not reason and self.within == "stage" and isinstance(place, str):
                reason = f"{place} (within='model' does without blocks)"
            if reason:
                left_out.append(LeftOut(site.path, reason))
            else:
                members[stage if self.within == "stage" else "", site.shape, site.dtype].append(site)
        groups = []
        for (stage, shape, dtype), sites in members.items():
            if len(sites) == 1:
                where = f"in '{stage}' " if stage else ""
                reason = f"the only weight of shape {shape} and dtype {dtype} {where}that the pattern matches"
                left_out.append(LeftOut(sites[0].path, reason))
                continue
            paths = tuple(site.path for site in sites)
            edit.common_slot(paths, [site.tensor for site in sites])
            each = Assignment.of(range(len(sites)))
            error = self._error([site.tensor for site in sites])
            groups.append(TemplateGroup(_common(paths), paths, shape, dtype, each, self.templates, error))
        return groups, left_out

    def notes(self, groups: Sequence[TemplateGroup], model_sites: Sequence[Site]) -> list[str]:
        """What a plan warns of: see `Spec.notes`."""
        more = [
            f"'{group.name}' stores {group.stored_after - group.stored_before:,} numbers more than before: "
            f"{group.templates} templates and their coefficients for {len(group.items)} layers."
            for group in groups
            if group.stored_after >= group.stored_before
        ]
        return [*more, *of_dtypes(groups)]

    def start(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Templates `(k, *weight)` and coefficients `(layers, k)` that layers of these weights start with.

        What is drawn is drawn from torch's own generator of the CPU, as torch's layers draw.
        """
        count, k = len(tensors), self.templates
        if self.init == "from_pretrained":
            return nearest(tensors, k)
        stored = list(tensors[:k])
        size = torch.stack([wide(tensor).abs().square().mean() for tensor in tensors]).mean().sqrt()
        while len(stored) < k:  # more templates than layers: of their size, and apart from theirs
            stored.append((torch.randn(tensors[0].shape).to(size.device) * size).to(tensors[0].dtype))
        if self.init == "sparse":
            mixture = nn.functional.one_hot(torch.arange(count) % k, k).double()
        else:
            mixture = orthonormal(count, k)
            mixture = mixture / mixture.norm(dim=1, keepdim=True)
        return torch.stack(stored), mixture.to(tensors[0].device, tensors[0].dtype)

    def share_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """Make the layers of a group read a bank; see `Spec.share_`."""
        tensors = [edit.parameter_at(edits.model, path) for path in group.items]
        edit.common_slot(group.items, tensors)
        with torch.no_grad():
            for path, tensor in zip(group.items, tensors, strict=True):
                refuse_nonfinite(path, tensor)
            templates, coefficients = self.start(tensors)
        self._bank_(edits, group, tensors[0], templates, coefficients)

    def place_(self, edits: edit.Transaction, group: TemplateGroup) -> None:
        """Make the layers of a group read a bank that a file will fill; see `Spec.place_`."""
        like = edit.parameter_at(edits.model, group.items[0])
        blank = like.detach().new_zeros(self.templates, *group.shape)
        self._bank_(edits, group, like, blank, blank.new_zeros(len(group.items), self.templates))

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
        if group.templates != self.templates:
            raise SpecError(
                f"The plan has {group.templates} templates for '{group.name}', {self!r} others: plan again."
            )
        # Row by row in memory, which a decomposition does not give: fused optimizers read numbers as they lie there.
        templates, coefficients = templates.contiguous(), coefficients.contiguous()
        bank = TemplateBank(edit.like_parameter(like, templates), nn.Parameter(coefficients, like.requires_grad))
        read_bank_(edits, group.name, group.items, bank)

    def _error(self, tensors: Sequence[Tensor]) -> float | None:
        if self.init != "from_pretrained" or any(tensor.is_meta for tensor in tensors):
            return None
        sizes = torch.linalg.eigvalsh(gram([tensor.detach() for tensor in tensors])).clamp(min=0)
        lost = sizes[: max(0, len(sizes) - self.templates)].sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)
        return min(1.0, float(lost.sqrt()))


def release_(edits: edit.Transaction, group: TemplateGroup) -> list[nn.Parameter]:
    """Give every layer of a group a parameter with the numbers that it reads, and take its bank away."""
    bank = bank_of(edits.model, group.items)
    assert isinstance(bank, TemplateBank)
    with torch.no_grad():
        weights = [edit.like_parameter(bank.templates, weight.detach().clone()) for weight in bank()]
    leave_bank_(edits, group.items, weights)
    return weights


def _vector(site: Site) -> str:
    """Why a site is no weight that mixtures are for, or nothing; no mistake of the pattern's."""
    if sum(length > 1 for length in site.shape) < 2:
        return "a vector: templates are for matrices and kernels"
    return "part of a norm layer: templates are for matrices and kernels" if in_norm(site) else ""


def _refused(site: Site, explicit: bool) -> str:
    """Why a weight cannot be read from a bank, or nothing; an error where the pattern names it."""
    if site.aliases and explicit:
        raise AlreadyShared(
            f"Cannot make a mixture of '{site.path}': it is already one parameter with '{site.aliases[0]}'. Leave it "
            "out of the pattern, or give it a parameter of its own first (unshare_ does, where a plan tied it)."
        )
    recurrent = isinstance(site.holder, nn.RNNBase)
    for reason, advice in (
        (quantised(site.tensor), ADVICE),
        (buffered(site), "Leave it out of the pattern"),
        (
            "recurrent layers keep a second list of their weights, which a bank never reaches" if recurrent else "",
            "Tie it",
        ),
    ):
        if reason and explicit:
            raise SpecError(f"Cannot make a mixture of '{site.path}': {reason}. {advice}.")
        if reason:
            return reason
    if site.aliases:
        return f"already one parameter with '{site.aliases[0]}'"
    return "" if explicit else beside_quantised(site)


def _common(paths: Sequence[str]) -> str:
    """Paths as one, with `*` for the parts that differ.

    Example:
        >>> _common(["layer1.1.conv1.weight", "layer1.1.conv2.weight", "layer1.2.conv1.weight"])
        'layer1.*.*.weight'
    """
    parts = [path.split(".") for path in paths]
    if len({len(one) for one in parts}) > 1:
        lead = next(at for at, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1)
        return ".".join([*parts[0][:lead], "*", parts[0][-1]])
    return ".".join(names[0] if len(set(names)) == 1 else "*" for names in zip(*parts, strict=True))
