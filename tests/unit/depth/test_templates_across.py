"""Layers of different widths read leading slices of common templates: numbers, starts, copies, files and folds."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.banked import Products, template_bank
from tests.contract.banks import bank_path
from tests.support import bits, output, state
import weightshare as ws
from weightshare.depth.fold import plan_loops
from weightshare.depth.templates import TemplateBank, TemplateGroup
from weightshare.errors import FileError, ModelChanged, ShapeMismatch, SpecError
from weightshare.planning import Plan

WIDE = {"within": "model", "across_widths": True}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def funnel() -> nn.Sequential:
    """Linear layers whose widths differ both ways; the largest in each is 11."""
    widths = [(3, 5), (5, 7), (7, 11), (11, 2), (2, 7), (7, 11)]
    layers = [layer for inputs, outputs in widths for layer in (nn.Linear(inputs, outputs), nn.Tanh())]
    return nn.Sequential(*layers)


def moved(model: nn.Module) -> nn.Module:
    """All numbers away from where they started."""
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    return model


def mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean())


def test_weights_and_gradients_are_those_of_the_sliced_sum() -> None:
    """`W_i = (Σ_j α_ij T_j)[:out_i, :in_i]`, by plain autograd through the formula."""
    plain = funnel().double()
    model = copy.deepcopy(plain)
    plan = ws.share_(model, ws.Templates(3, **WIDE), "*.weight")
    moved(model)
    (group,) = plan.groups
    assert isinstance(group, TemplateGroup)
    x = torch.randn(13, 3, dtype=torch.float64)
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    templates, coefficients = (leaves[f"{bank_path(model, group)}.{name}"] for name in ("templates", "coefficients"))
    entries = {name: tensor for name, tensor in leaves.items() if "weightshare" not in name}
    for row, path in enumerate(group.items):
        outputs, inputs = plain.get_parameter(path).shape
        entries[path] = sum(coefficients[row, j] * templates[j, :outputs, :inputs] for j in range(3))  # type: ignore
    wanted = functional_call(plain, entries, (x,))
    with Products() as products:
        found = model(x)
    assert products.found[6, 121] == 1
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    naive = torch.autograd.grad(wanted.square().sum(), list(leaves.values()))
    for (name, tensor), gradient in zip(model.named_parameters(), naive, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-10, msg=f"{name}: {{}}".format)


def test_a_layer_called_alone_reads_what_it_reads_in_a_pass() -> None:
    model = moved(funnel().double())
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    weights = template_bank(model)()
    for row, layer in enumerate(module for module in model if isinstance(module, nn.Linear)):
        assert layer.weight.shape == (layer.out_features, layer.in_features)
        assert layer.weight.is_contiguous()
        assert weights[row].is_contiguous()
        torch.testing.assert_close(layer.weight, weights[row], rtol=1e-13, atol=1e-13)


def test_only_layers_that_differ_in_width_share() -> None:
    """Kernels, dense and depthwise, both orders of dimensions, and linear layers stay apart, tables out."""
    model = nn.ModuleList(
        [
            *(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3), nn.Conv2d(7, 2, (3, 1)), nn.Conv2d(5, 11, (3, 1))),
            *(nn.Conv2d(13, 13, 3, groups=13), nn.Conv2d(17, 17, 3, groups=17)),
            *(nn.ConvTranspose2d(3, 5, 3), nn.ConvTranspose2d(7, 2, 3)),
            *(nn.Linear(3, 5), nn.Linear(5, 2), nn.Embedding(19, 3), nn.Embedding(23, 2), nn.Conv1d(3, 5, 2)),
        ]
    )
    plan = ws.plan(model, ws.Templates(2, **WIDE))
    found = [(tuple(path.partition(".")[0] for path in group.items), group.shape) for group in plan.groups]
    assert found == [
        (("0", "1"), (7, 5, 3, 3)),
        (("2", "3"), (11, 7, 3, 1)),
        (("4", "5"), (17, 1, 3, 3)),
        (("6", "7"), (7, 5, 3, 3)),
        (("8", "9"), (5, 5)),
    ]
    alone = "the only weight of shape (5, 3, 2) and dtype float32 that the pattern matches, whatever the widths"
    assert {left.path: left.reason for left in plan.left_out}["12.weight"] == alone


def test_the_plan_says_shapes_and_numbers() -> None:
    model = funnel()
    plan = ws.plan(model, ws.Templates(2, **WIDE), "*.weight")
    (group,) = plan.groups
    shapes = [(5, 3), (7, 5), (11, 7), (2, 11), (7, 2), (11, 7)]
    assert [group.shape_of(item) for item in range(6)] == shapes
    assert group.stored_before == 15 + 35 + 77 + 22 + 14 + 77
    assert group.stored_after == 2 * (11 * 11 + 6)
    assert "5×3 7×5 11×7 2×11 7×2" in str(plan)
    assert "of 11×11" in " ".join(str(plan).split())
    assert "numbers more than before" in str(plan)
    plan.apply_(model)
    assert plan.stored_after == sum(tensor.numel() for tensor in model.parameters())
    assert ws.report(model).logical == plan.stored_before
    assert "2 templates of shape 11×11, read in leading slices" in str(model)


def test_json_and_what_was_edited_in_it() -> None:
    model = funnel()
    plan = ws.plan(model, ws.Templates(2, **WIDE), "*.weight")
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    Plan.from_json(text).apply_(model)
    (entry,) = json.loads(text)["groups"]
    shapes = entry["shapes"]
    for edited in (
        shapes[:-1],
        [*shapes[:-1], [11, 13]],
        [*shapes[:-1], [11, 7, 1]],
        [[5, 3]] * 6,
        [*shapes[:-1], [11, -7]],
        [*shapes[:-1], [11, 7.0]],
        [*shapes[:-1], [True, 7]],
        [*shapes[:-1], ["11", 7]],
        "shapes",
        7,
        None,
    ):
        with pytest.raises(FileError):
            Plan.from_json(json.dumps({**json.loads(text), "groups": [{**entry, "shapes": edited}]}))


def test_equal_widths_are_what_they_are_without() -> None:
    def one(**how: Any) -> tuple[dict[str, Any], str]:
        torch.manual_seed(5)
        model = nn.Sequential(*(nn.Linear(7, 7) for _ in range(5)))
        plan = ws.share_(model, ws.Templates(2, **how))
        return {name: bits(tensor) for name, tensor in model.state_dict().items()}, json.dumps(plan.groups[0].entry())

    assert one() == one(across_widths=True)


@pytest.mark.parametrize("init", ["orthogonal", "sparse"])
@pytest.mark.parametrize("templates", [1, 2, 5, 7])
def test_layers_start_with_weights_of_their_own_size(init: Any, templates: int) -> None:
    """Initialisations choose it by width, so that activations keep theirs."""
    plain = funnel().double()
    with torch.no_grad():
        plain[4].weight *= 13
    model = copy.deepcopy(plain)
    (group,) = ws.share_(model, ws.Templates(templates, init, **WIDE), "*.weight").groups
    for path, weight in zip(group.items, template_bank(model)(), strict=True):
        assert mean_square(weight) == pytest.approx(mean_square(plain.get_parameter(path)), rel=1e-9)
    stored = template_bank(model).templates.detach()
    assert torch.equal(stored[0, :5, :3], plain[0].weight)
    assert 0.2 < mean_square(stored[0, 5:, 3:]) / mean_square(plain[0].weight) < 5


def test_a_template_for_each_layer_is_the_unshared_network() -> None:
    plain, x = funnel(), torch.randn(3, 3)
    with torch.no_grad():
        plain[2].weight.zero_()
    model = copy.deepcopy(plain)
    ws.share_(model, ws.Templates(6, "sparse", **WIDE), "*.weight")
    assert torch.equal(template_bank(model).coefficients, torch.eye(6))
    assert torch.equal(model(x), plain(x))
    assert mean_square(template_bank(model).templates[1, 7:, 5:]) > 0  # what others read of it is not zero


def test_a_layer_of_zeros_stays_one_and_learns() -> None:
    model = funnel()
    with torch.no_grad():
        model[6].weight.zero_()
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    assert not model[6].weight.any()
    model(torch.randn(5, 3)).square().sum().backward()
    gradient = template_bank(model).coefficients.grad
    assert gradient is not None
    assert gradient[3].abs().min() > 0


def test_copies_state_dicts_and_the_way_back() -> None:
    model, x = moved(funnel()), torch.randn(3, 3)
    plain = copy.deepcopy(model)
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    moved(model)
    weights = [weight.detach().clone() for weight in template_bank(model)()]
    other = copy.deepcopy(plain)
    ws.share_(other, ws.Templates(2, **WIDE), "*.weight")
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other):
        assert torch.equal(twin(x), model(x))
        assert [bits(one) for one in template_bank(twin)()] == [bits(one) for one in weights]
    folded = ws.fold(model)
    assert torch.equal(folded(x), model(x))
    assert folded.state_dict().keys() == plain.state_dict().keys()
    ws.unshare_(model)
    layers = [module for module in model if isinstance(module, nn.Linear)]
    assert [bits(layer.weight) for layer in layers] == [bits(one) for one in weights]
    assert [layer.weight.shape for layer in layers] == [one.weight.shape for one in plain if type(one) is nn.Linear]
    assert not ws.report(model).groups


def test_files(tmp_path: Path) -> None:
    model, x = funnel(), torch.randn(3, 3)
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    ws.save(moved(model), tmp_path / "m")
    again = ws.load(tmp_path / "m", funnel())
    assert torch.equal(again(x), model(x))
    assert type(template_bank(again)) is TemplateBank
    narrow = funnel()
    narrow[4] = nn.Linear(7, 5)
    narrow[4].bias = nn.Parameter(torch.zeros(11))  # nothing else tells
    before = state(narrow)
    with pytest.raises(FileError, match=r"'4\.weight' is \(5, 7\), the plan shares \(11, 7\)"):
        ws.load(tmp_path / "m", narrow)
    assert state(narrow) == before


def test_a_changed_model_is_refused() -> None:
    plan = ws.plan(funnel(), ws.Templates(2, **WIDE), "*.weight")
    model = funnel()
    model[2] = nn.Linear(7, 5)
    with pytest.raises(ModelChanged, match=r"'2\.weight' has changed .* got \(5, 7\) .* planned for \(7, 5\)"):
        plan.apply_(model)
    wider = Plan.from_json(plan.to_json().replace('"across_widths": true', '"across_widths": false'))
    before = state(model := funnel())
    with pytest.raises((SpecError, ShapeMismatch)):
        wider.apply_(model)
    assert state(model) == before


def test_frozen_and_trained_layers_do_not_mix() -> None:
    model = funnel()
    model[2].weight.requires_grad_(False)
    with pytest.raises(ShapeMismatch, match="requires_grad"):
        ws.plan(model, ws.Templates(2, **WIDE), "*.weight")


@pytest.mark.parametrize("given", [{"across_widths": 1}, {"across_widths": None}, {"across_widths": "model"}])
def test_it_is_yes_or_no(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="need True or False"):
        ws.Templates(2, **given)


def test_trained_weights_of_other_widths_are_no_start() -> None:
    with pytest.raises(SpecError, match="no leading slices in common"):
        ws.Templates(2, "from_pretrained", across_widths=True)


def test_parallel_layers_of_other_widths_stay_apart() -> None:
    model, x = funnel(), torch.randn(5, 3)
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    with torch.no_grad():
        template_bank(model).coefficients.copy_(torch.tensor([[1, 2], [3, 1], [2, 4], [1, -1], [-1, 1], [-1, -2]]))
    plan = plan_loops(model, batches=[x])
    (group,) = plan.groups
    assert [kind.items for kind in group.kinds] == [("4.weight", "10.weight")]
    assert dict(group.why_apart) == {
        "4.weight": "is parallel to '0.weight', and of another shape",
        "8.weight": "is parallel to '6.weight', and of another shape",
    }
    assert "Apart: '4.weight' is parallel to '0.weight', and of another shape." in str(plan)
    assert plan.output_error == pytest.approx(0, abs=1e-6)
    assert group.plain  # five layers of 163 numbers, fewer than two templates of 121
    folded = plan.fold(model)
    torch.testing.assert_close(folded(x), model(x))
    assert plan.stored_after == sum(tensor.numel() for tensor in folded.parameters())


def test_no_threshold_makes_one_layer_of_two_shapes() -> None:
    model = funnel()
    ws.share_(model, ws.Templates(2, **WIDE), "*.weight")
    (group,) = plan_loops(model, threshold=0).groups
    assert [kind.items for kind in group.kinds] == [("4.weight", "10.weight")]
    assert group.distinct == 5


def test_all_stages_of_a_resnet_read_one_bank() -> None:
    model = ws.models.resnet20()
    plan = ws.share_(model, ws.Templates(3, **WIDE), ["layer*.conv1.weight", "layer*.conv2.weight"])
    (group,) = plan.groups
    assert (len(group.items), group.shape) == (18, (64, 64, 3, 3))
    assert set(group.shapes) == {(16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)}
    assert plan.stored_after == 272_474 - group.stored_before + 3 * (18 + 64 * 64 * 9)
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=1e-4), lr=0.05, momentum=0.9)
    ws.check(optimizer, model)
    x, labels = torch.randn(5, 3, 17, 17), torch.arange(5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3, abs=0.8)  # as an unshared network starts
    assert losses[-1] < 0.7 * losses[0]
    folded = ws.fold(model)
    assert torch.equal(output(folded, x), output(model, x))
