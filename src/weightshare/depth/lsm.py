"""The layer similarity matrix: which layers of a bank of templates read the same mixture of them.

    LSM_ij = |cos(a_i, a_j)|

`a_i` is the row of coefficients by which layer `i` mixes the templates. Where it is 1 the weights of two layers are
equal up to a factor, so one of them can go: `fold` makes a loop of them. It takes `layers × templates` numbers and none
of the weights, so it can be looked at after every step.

Equal coefficients make equal weights, but unlike ones may do so too, where templates are alike. The cosine of the
weights themselves, `aᵢᵀ G aⱼ / √(aᵢᵀ G aᵢ · aⱼᵀ G aⱼ)`, needs the Gram matrix `G = T Tᵀ` of the templates beside them,
and again no weight is made.

In the grid: the measure of soft sharing across depth. Source: Savarese 2019, the layer similarity matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from weightshare._table import shape_text
from weightshare.depth.measure import Similarity
from weightshare.depth.nearest import gram
from weightshare.depth.templates import TemplateBank, TemplateGroup
from weightshare.depth.widths import leading
from weightshare.errors import NoMatch, SpecError
from weightshare.generating import bank_of
from weightshare.planning import applied_plans, from_root
from weightshare.surgery.shards import whole
from weightshare.surgery.sites import Site, plain, prefixes

Of = Literal["coefficients", "weights"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The layers that mix the templates of one bank.

    Args:
        group: Of an applied plan, with paths from the root of the model.
        bank: Holds `templates` and `coefficients`.
        site: Of the coefficients; the layers' weights are its aliases, so `select` finds it by them.
    """

    group: TemplateGroup
    bank: TemplateBank
    site: Site

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of their weights from the root of the model, in order."""
        return self.group.items


def mixtures(model: nn.Module) -> dict[str, Mixture]:
    """Every group of layers that mix templates, by name: its role, and its shape where two have the same role.

    Args:
        model: Any module, compiled or not.

    Raises:
        ModelChanged: If layers do not read the bank of their plan any more.
    """
    model = plain(model)
    modules = dict(model.named_modules())
    paths = {id(module): path for path, module in modules.items()}
    plans = [(at, plan) for at, plan in applied_plans(model) if issubclass(plan.spec.kind, TemplateGroup)]
    groups = [(from_root(at, group.name), group.under(at)) for at, plan in plans for group in plan.groups]
    roles = [role for role, _ in groups]
    found: dict[str, Mixture] = {}
    for role, group in groups:
        bank = bank_of(model, group.items)
        assert isinstance(bank, TemplateBank)
        assert isinstance(group, TemplateGroup)
        path = from_root(paths[id(bank)], "coefficients")
        above = dict.fromkeys(name for item in (path, *group.items) for name in prefixes(item)[:-1])
        site = Site(path, bank.coefficients, group.items, tuple((name, modules[name]) for name in above), bank, model)
        name = role if roles.count(role) == 1 else f"{role} {shape_text(group.shape)}"
        while name in found:  # of one shape and two dtypes
            name = f"{name}'"
        found[name] = Mixture(group, bank, site)
    return found


def similarity_matrix(coefficients: Tensor, signed: bool = False, gram: Tensor | None = None) -> Tensor:
    """Compare every two rows of coefficients: `|cos(a_i, a_j)|`.

    Args:
        coefficients: `(layers, templates)`, real or complex, of any length and sign.
        signed: Give the cosine itself, so that −1 stands for rows that are opposite; of complex rows its real part.
        gram: `(templates, templates)`, the products of the templates with each other: then the cosine is that of the
            weights that the rows make. `None` takes the templates for orthonormal.

    Returns:
        `(layers, layers)` float64 on the CPU, symmetric, from 0 (or −1) to 1. A row of zeros has no direction: it is
        NaN with every other and with itself.

    Source: Savarese 2019, the layer similarity matrix. Differs: `signed` and `gram` are ours.

    Example:
        >>> similarity_matrix(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    rows = coefficients.detach().cpu()
    rows = rows.to(torch.complex128 if rows.is_complex() else torch.float64)
    largest = rows.abs().amax(1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)  # squares of small rows stay above 0
    products = rows @ rows.mH if gram is None else rows @ gram.detach().cpu().to(rows.dtype) @ rows.mH
    lengths = products.diagonal().real.clamp(min=0.0).sqrt()
    there = lengths > 0
    cosine = (products.real if signed else products.abs()) / torch.outer(lengths, lengths)
    cosine = cosine.clamp(-1.0, 1.0).fill_diagonal_(1.0)
    return torch.where(torch.outer(there, there), cosine, torch.nan)


def layer_similarity(model: nn.Module, signed: bool = False, of: Of = "coefficients") -> dict[str, Similarity]:
    """Compare every two layers that mix the same templates.

    Args:
        model: With `Templates` applied; it is not changed.
        signed: Keep the sign: layers that are opposite have −1, not 1.
        of: `coefficients` compares the rows of coefficients, as the source does; `weights` compares what they make,
            which differs where templates are not orthonormal; layers of different shapes are NaN then.

    Returns:
        For each group of layers its matrix, named by the layers' weights; see `similarity_matrix`.

    Raises:
        NoMatch: If no layers of the model mix templates.
        SpecError: If `of` is neither, or a bank is on the meta device.

    Source: Savarese 2019, the layer similarity matrix. Differs: `signed` and `of="weights"` are ours.

    Example:
        >>> from weightshare.depth.templates import Templates
        >>> from weightshare.planning import make_plan
        >>> net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
        >>> make_plan(net, Templates(2, init="sparse"), None).apply_(net)
        >>> (found,) = layer_similarity(net).values()
        >>> print(found)
        |cos| of coefficients   0.weight   1.weight   2.weight
        ──────────────────────────────────────────────────────
        0.weight                   1.000      0.000      1.000
        1.weight                   0.000      1.000      0.000
        2.weight                   1.000      0.000      1.000
    """
    if of not in get_args(Of):
        raise SpecError(f"layer_similarity(of={of!r}): need 'coefficients' or 'weights'.")
    found = expect_mixtures(model)
    measure = f"{'cos' if signed else '|cos|'} of {of}"
    matrices = {}
    for name, mixture in found.items():
        if mixture.bank.coefficients.is_meta:
            raise SpecError(f"The coefficients of '{name}' are on the meta device: load the model first.")
        rows = whole(mixture.bank.coefficients)
        weights = of == "weights"
        values = _of_weights(mixture.bank, rows, signed) if weights else similarity_matrix(rows, signed)
        matrices[name] = Similarity(measure, mixture.layers, mixture.layers, values)
    return matrices


def mean_similarity(found: Mapping[str, Similarity]) -> float:
    """Mean over groups of the mean over all pairs of different layers; a layer of zeros is like no other.

    Args:
        found: From `layer_similarity`, not signed.

    Returns:
        From 0 (no two layers are alike in anything) to 1 (in every group all layers are one, up to a factor).

    Source: Our own number, for a curve over a training.

    Example:
        >>> pair = Similarity("|cos|", ("a", "b"), ("a", "b"), torch.tensor([[1.0, 0.25], [0.25, 1.0]]))
        >>> mean_similarity({"x": pair})
        0.25
    """
    means = []
    for one in found.values():
        first, second = torch.triu_indices(*one.values.shape, offset=1)
        means.append(one.values[first, second].nan_to_num(0.0).mean().item() if len(first) else 1.0)
    return sum(means) / len(means)


def _of_weights(bank: TemplateBank, rows: Tensor, signed: bool) -> Tensor:
    """The cosines of the weights; those that differ in shape have none."""
    if not bank.shapes:
        return similarity_matrix(rows, signed, template_gram(bank.templates))
    values = torch.full((len(rows), len(rows)), torch.nan, dtype=torch.float64)
    for shape in dict.fromkeys(bank.shapes):
        layers = torch.tensor([at for at, one in enumerate(bank.shapes) if one == shape])
        products = template_gram(leading(whole(bank.templates), shape, at=1))
        values[layers[:, None], layers] = similarity_matrix(rows[layers.to(rows.device)], signed, products)
    return values


def template_gram(templates: Tensor) -> Tensor:
    """`G_jl = ⟨T_j, T_l⟩` of a bank's templates, `(templates, templates)` in float64 on the CPU.

    Example:
        >>> template_gram(torch.tensor([[[1.0, 2.0]], [[0.0, 3.0]]]))
        tensor([[5., 6.],
                [6., 9.]], dtype=torch.float64)
    """
    return gram(whole(templates).cpu().unbind())


def expect_mixtures(model: nn.Module) -> dict[str, Mixture]:
    """As `mixtures`; `NoMatch` where there is none."""
    found = mixtures(model)
    if not found:
        raise NoMatch(
            f"No layers of {type(plain(model)).__name__} mix templates: share them first, as in "
            "weightshare.share_(model, weightshare.Templates(2))."
        )
    return found
