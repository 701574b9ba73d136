"""Template banks: groups, counts, starts, one product a pass, and what is refused or left out with a reason."""

from collections import Counter
from collections.abc import Iterator
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.banked import Products, template_bank
from tests.support import state
import weightshare as ws
from weightshare.depth.nearest import gram, nearest, orthonormal
from weightshare.depth.templates import TemplateBank, TemplateGroup
from weightshare.errors import AlreadyShared, FileError, NoMatch, ShapeMismatch, SharingError, SpecError
from weightshare.generating import bank_of
from weightshare.planning import Plan


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


class Pair(nn.Module):
    """Two convolutions of one shape, a norm, and a shortcut of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm(self.conv1(x)).relu())


def chain(width: int = 5, depth: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.Sequential(*(Pair(width) for _ in range(depth))))


def linears(count: int = 5, width: int = 7, **how: Any) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width, **how) for _ in range(count)))


@pytest.mark.parametrize("templates", [0, -1, 1.0, True, "2", None, 2**40, float("nan")])
def test_templates_are_counted_from_one(templates: Any) -> None:
    with pytest.raises(SpecError, match="whole number of at least 1"):
        ws.Templates(templates)


@pytest.mark.parametrize("given", [{"init": "svd"}, {"init": None}, {"within": "block"}])
def test_names_are_known(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"Templates\({next(iter(given))}=.*need one of"):
        ws.Templates(2, **given)


def test_both_convolutions_of_a_block_share_and_the_rest_stays() -> None:
    model = chain()
    plan = ws.plan(model, ws.Templates(2), "1.*")
    (group,) = plan.groups
    assert isinstance(group, TemplateGroup)
    assert group.name == "1.*.*.weight"
    assert group.items == tuple(f"1.{block}.conv{number}.weight" for block in range(3) for number in (1, 2))
    assert (plan.stored_before - plan.stored_after) == 6 * 225 - 2 * (6 + 225)
    reasons = {left.path: left.reason for left in plan.left_out}
    assert reasons["1.0.norm.weight"] == reasons["1.2.conv1.bias"] == "a vector: templates are for matrices and kernels"
    assert "1.0.norm.running_mean" not in reasons


@pytest.mark.parametrize(
    ("make", "layers", "numbers"),
    [
        (lambda: nn.Linear(5, 3), 4, 15),
        (lambda: nn.Conv1d(5, 3, 2), 3, 30),
        (lambda: nn.Conv2d(4, 6, (1, 3), groups=2), 5, 36),
        (lambda: nn.Conv3d(2, 3, 2), 4, 48),
        (lambda: nn.ConvTranspose2d(5, 3, 2), 4, 60),
    ],
)
@pytest.mark.parametrize("templates", [1, 3, 7])
def test_a_bank_stores_templates_and_coefficients(make: Any, layers: int, numbers: int, templates: int) -> None:
    model = nn.ModuleList([make() for _ in range(layers)])
    plan = ws.share_(model, ws.Templates(templates), "*.weight")
    held = {name: tensor.numel() for name, tensor in model.state_dict().items() if "weightshare" in name}
    assert sum(held.values()) == templates * (layers + numbers)
    assert plan.stored_after == sum(tensor.numel() for tensor in model.parameters())
    assert not [name for name in model.state_dict() if name.endswith(".weight")]


def test_layers_of_a_transformer_share_by_shape() -> None:
    model = ws.models.build("timm:vit_tiny_patch16_224", depth=4, img_size=32).eval()
    plan = ws.share_(model, ws.Templates(3), "blocks.*")
    assert {(group.name, group.shape, len(group.items)) for group in plan.groups} == {
        ("blocks.*.attn.qkv.weight", (576, 192), 4),
        ("blocks.*.attn.proj.weight", (192, 192), 4),
        ("blocks.*.mlp.fc1.weight", (768, 192), 4),
        ("blocks.*.mlp.fc2.weight", (192, 768), 4),
    }
    x = torch.randn(2, 3, 32, 32)
    folded = ws.fold(model)
    assert not [module for module in folded.modules() if isinstance(module, TemplateBank)]
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x))


def test_the_whole_model_as_one_group() -> None:
    """Whatever block layers lie in, and where they lie in none."""
    model = nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))})
    with pytest.raises(NoMatch, match=r"within='model' does without blocks"):
        ws.plan(model, ws.Templates(2))
    (group,) = ws.plan(model, ws.Templates(2, within="model")).groups
    assert group.items == ("a.weight", "b.0.weight")
    assert group.name == "*.weight"


def test_stages_have_banks_of_their_own() -> None:
    model = nn.ModuleList([nn.Sequential(nn.Linear(5, 5), *linears(3, 5)) for _ in range(2)])
    model[0][0] = nn.Linear(3, 5)  # so that the stages themselves are no blocks that repeat
    plan = ws.plan(model, ws.Templates(2))
    assert [(group.name, len(group.items)) for group in plan.groups] == [("0.*.weight", 3), ("1.*.weight", 4)]
    (whole,) = ws.plan(model, ws.Templates(2, within="model")).groups
    assert len(whole.items) == 7


def test_one_layer_is_left_out_and_says_so() -> None:
    model = linears(3)
    model.append(nn.Linear(7, 4))
    model.append(nn.Linear(4, 4))
    model.append(nn.Linear(4, 4, bias=False))
    plan = ws.plan(model, ws.Templates(2, within="model"), ["0.*", "1.*", "3.weight"])
    assert [left.reason for left in plan.left_out if left.path == "3.weight"] == [
        "the only weight of shape (4, 7) and dtype float32 that the pattern matches"
    ]


def test_dtypes_share_apart() -> None:
    model = linears(5)
    model[1].double()
    model[3].double()
    plan = ws.plan(model, ws.Templates(1))
    assert [(group.dtype, len(group.items)) for group in plan.groups] == [("float32", 3), ("float64", 2)]
    assert "each dtype shares for itself" in plan.notes[0]
    model[3].float()
    reasons = {left.path: left.reason for left in ws.plan(model, ws.Templates(1)).left_out}
    assert reasons["1.weight"] == "the only weight of shape (7, 7) and dtype float64 that the pattern matches"


def test_frozen_and_trained_layers_do_not_mix() -> None:
    model = linears(4)
    model[2].requires_grad_(False)
    before = state(model)
    with pytest.raises(ShapeMismatch, match=r"'2\.weight'.*requires_grad.*Freeze all layers"):
        ws.share_(model, ws.Templates(2))
    assert state(model) == before
    model.requires_grad_(False)
    ws.share_(model, ws.Templates(2))
    assert not [tensor for tensor in model.parameters() if tensor.requires_grad]


def test_what_cannot_read_a_bank() -> None:
    model = nn.ModuleList([nn.LSTM(5, 5) for _ in range(3)])
    with pytest.raises(NoMatch, match="recurrent layers keep a second list"):
        ws.plan(model, ws.Templates(2))
    with pytest.raises(SpecError, match=r"Cannot make a mixture of '0\.weight_ih_l0': recurrent layers"):
        ws.plan(model, ws.Templates(2), "*weight_ih*")
    tied = linears(4)
    tied[3].weight = tied[0].weight
    with pytest.raises(AlreadyShared, match=r"'0\.weight': it is already one parameter with '3\.weight'"):
        ws.plan(tied, ws.Templates(2), "0.*")
    left = {left.path: left.reason for left in ws.plan(tied, ws.Templates(2)).left_out}
    assert left["0.weight"] == "already one parameter with '3.weight'"


def test_a_weight_that_is_not_finite_changes_nothing() -> None:
    model = linears(4)
    with torch.no_grad():
        model[3].weight[2, 1] = float("nan")
    before = state(model)
    for init in ("orthogonal", "sparse", "from_pretrained"):
        plan = ws.plan(linears(4), ws.Templates(2, init))  # made while the numbers were good
        with pytest.raises(SharingError, match=r"'3\.weight': it holds NaN"):
            plan.apply_(model)
        assert state(model) == before


@pytest.mark.parametrize(("layers", "templates"), [(6, 2), (5, 5), (3, 7), (4, 1)])
def test_orthogonal_rows_have_length_one(layers: int, templates: int) -> None:
    model = linears(layers)
    first = [layer.weight.detach().clone() for layer in model]
    ws.share_(model, ws.Templates(templates))
    found = template_bank(model)
    torch.testing.assert_close(found.coefficients.norm(dim=1), torch.ones(layers))
    kept = min(layers, templates)
    assert torch.equal(found.templates[:kept], torch.stack(first[:kept]))
    drawn = found.templates[kept:]
    sizes = torch.stack([weight.square().mean() for weight in (*first, *drawn)]).sqrt()
    assert sizes.max() / sizes.min() < 1.5


def test_an_orthonormal_draw() -> None:
    for rows, columns in ((7, 3), (3, 7), (4, 4)):
        drawn = orthonormal(rows, columns)
        narrow = drawn if rows >= columns else drawn.mT
        torch.testing.assert_close(narrow.mT @ narrow, torch.eye(min(rows, columns), dtype=torch.float64))
    signs = torch.stack([orthonormal(3, 2)[0, 0].sign() for _ in range(60)])
    assert set(signs.tolist()) == {-1.0, 1.0}


def test_the_variance_of_activations_is_kept() -> None:
    """Wide layers, so that means over units are exact to a few per cent."""
    for templates in (1, 2, 5):
        model = nn.Sequential(*(nn.Linear(401, 401, bias=False) for _ in range(6)))
        plain = torch.stack([layer.weight.detach().var() for layer in model]).mean()
        ws.share_(model, ws.Templates(templates))
        shared = torch.stack([layer.weight.detach().var() for layer in model])
        assert (shared / plain - 1).abs().max() < 0.05


def test_a_sparse_start_reads_one_template_a_layer() -> None:
    model = linears(5)
    first = [layer.weight.detach().clone() for layer in model]
    ws.share_(model, ws.Templates(2, init="sparse"))
    assert torch.equal(template_bank(model).coefficients, torch.eye(2)[[0, 1, 0, 1, 0]])
    assert all(torch.equal(model[at].weight, first[at % 2]) for at in range(5))


@pytest.mark.parametrize("templates", [5, 8])
def test_one_template_a_layer_is_the_unshared_network(templates: int) -> None:
    model, x = linears(5), torch.randn(3, 7)
    wanted = model(x)
    plan = ws.share_(model, ws.Templates(templates, init="sparse"))
    assert torch.equal(model(x), wanted)
    assert f"{templates} templates and their coefficients for 5 layers" in plan.notes[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("templates", [1, 3, 5, 6])
def test_the_start_from_trained_weights_is_the_nearest(templates: int, dtype: torch.dtype) -> None:
    tensors = [torch.randn(7, 3, 2, dtype=torch.promote_types(dtype, torch.float32)).to(dtype) for _ in range(5)]
    found, coefficients = nearest(tensors, templates)
    exact = torch.complex128 if dtype.is_complex else torch.float64
    rows = torch.stack([tensor.flatten() for tensor in tensors]).to(exact)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    wanted = (left[:, :templates] * sizes[:templates]) @ right[:templates]
    made = coefficients.to(exact) @ found.flatten(1).to(exact)
    room = {torch.bfloat16: 0.1, torch.float32: 1e-5, torch.float64: 1e-10, torch.complex64: 1e-5}[dtype]
    torch.testing.assert_close(made, wanted, rtol=room, atol=room)
    assert found.dtype == coefficients.dtype == dtype
    assert abs(coefficients.abs().square().sum().item() / 5 - 1) < 0.02
    assert bool((found.flatten(1).norm(dim=1) > 0).all())


def test_inner_products_are_summed_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(11, 7) for _ in range(3)]
    rows = torch.stack([tensor.flatten() for tensor in tensors]).double()
    monkeypatch.setattr("weightshare.depth.nearest.CHUNK", 13)
    torch.testing.assert_close(gram(tensors), rows @ rows.mT)
    found, coefficients = nearest(tensors, 3)
    torch.testing.assert_close((coefficients @ found.flatten(1)).double(), rows, rtol=1e-5, atol=1e-5)


def test_the_plan_says_what_the_start_loses() -> None:
    model = linears(6)
    before = torch.stack([layer.weight.detach().clone() for layer in model])
    plan = ws.plan(model, ws.Templates(3, init="from_pretrained"))
    plan.apply_(model)
    after = torch.stack([layer.weight.detach() for layer in model])
    (group,) = plan.groups
    assert isinstance(group, TemplateGroup)
    assert group.error == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-5)
    assert f"{group.error:.2%}" in str(plan)
    assert ws.plan(linears(6), ws.Templates(6, init="from_pretrained")).groups[0].error == 0.0  # pyright: ignore
    assert ws.plan(linears(6), ws.Templates(3)).groups[0].error is None  # pyright: ignore


def test_on_meta_it_is_planned_for_and_not_shared() -> None:
    with torch.device("meta"):
        model = linears(6)
    plan = ws.plan(model, ws.Templates(2, init="from_pretrained"))
    assert plan.stored_after == 2 * (6 + 49) + 42
    with pytest.raises(SpecError, match="meta device"):
        plan.apply_(model)


@pytest.fixture
def products() -> Iterator[Counter[tuple[int, ...]]]:
    with Products() as mode:
        yield mode.found


def test_one_product_for_each_group_and_pass(products: Counter[tuple[int, ...]]) -> None:
    """And two in the backward pass: one for templates, one for coefficients."""
    model = nn.Sequential(chain(5, depth=3), nn.Conv2d(5, 11, 1), chain(11, depth=2)[1])
    plan = ws.share_(model, ws.Templates(3), ["0.1.*", "2.*"])
    assert [(len(group.items), group.numel) for group in plan.groups] == [(6, 225), (4, 1089)]
    products.clear()
    out = model(torch.randn(2, 2, 5, 5))
    assert products == {(6, 225): 1, (4, 1089): 1}
    out.sum().backward()
    assert products == {(6, 225): 1, (4, 1089): 1, (3, 225): 1, (3, 6): 1, (3, 1089): 1, (3, 4): 1}


def test_weights_and_gradients_are_those_of_the_naive_sum() -> None:
    """`W_i = Σ_j α_ij T_j`, written out in float64, through real convolutions."""
    model = chain(5, depth=3).double()
    (group,) = ws.share_(model, ws.Templates(3), "1.*").groups
    found = bank_of(model, group.items)
    assert isinstance(found, TemplateBank)
    templates = [template.detach().clone().requires_grad_() for template in found.templates]
    mixture = found.coefficients.detach().clone().requires_grad_()
    naive = {}
    for i, path in enumerate(group.items):
        total = torch.zeros(group.shape, dtype=torch.float64)
        for j, template in enumerate(templates):
            total = total + mixture[i, j] * template
        naive[path] = total
        torch.testing.assert_close(model.get_submodule(path.rpartition(".")[0]).weight.detach(), total.detach())
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    model.eval()
    rest = {name: value for name, value in model.named_parameters() if "weightshare" not in name}
    plain = chain(5, depth=3).double().eval()
    buffers = dict(model.named_buffers())
    torch.func.functional_call(plain, {**rest, **buffers, **naive}, (x,)).square().sum().backward()
    wanted = [torch.stack([template.grad for template in templates]), mixture.grad]  # pyright: ignore
    model.zero_grad()
    model(x).square().sum().backward()
    for got, want in zip((found.templates.grad, found.coefficients.grad), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_coefficients_have_no_decay_and_a_group_of_their_own() -> None:
    model = linears(5)
    ws.share_(model, ws.Templates(2))
    groups = {
        name.rpartition(".")[2]: (group["weight_decay"], group.get("own", False))
        for group in ws.param_groups(model, weight_decay=0.1)
        for name in group["param_names"]
    }
    assert groups == {"templates": (0.1, False), "coefficients": (0.0, True), "bias": (0.0, False)}


def test_a_plan_is_read_back_and_a_damaged_one_refused() -> None:
    plan = ws.plan(linears(5), ws.Templates(2, init="from_pretrained"))
    assert Plan.from_json(plan.to_json()) == plan
    for field, value in (
        ("templates", 0),
        ("templates", 2.0),
        ("templates", 2**61),
        ("error", "0"),
        ("error", -0.5),
        ("error", 2.0),
        ("items", ["0.weight"] * 2),
    ):
        entry = json.loads(plan.to_json())
        entry["groups"][0][field] = value
        with pytest.raises(FileError):
            Plan.from_json(json.dumps(entry))
    model = linears(5)
    entry = json.loads(plan.to_json())
    entry["groups"][0]["templates"] = 3
    before = state(model)
    with pytest.raises(SharingError):
        Plan.from_json(json.dumps(entry)).apply_(model)
    assert state(model) == before


def test_report_and_print_show_the_bank() -> None:
    model = linears(5)
    plan = ws.share_(model, ws.Templates(2))
    said = ws.report(model)
    assert (said.stored, said.logical) == (plan.stored_after, plan.stored_before)
    assert [(group.layers, group.slots, group.intact) for group in said.groups] == [(5, 2, True)]
    assert "mixtures" in str(said)
    assert "5 layers, 2 templates of shape 7×7" in str(model)
