"""What a `Codebook` leaves out with its reason, and what it refuses: the model is then as it was."""

from collections.abc import Callable
import copy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.support import bits, output, state
from tests.unit.values.test_codebook import both, few, network
from tests.zoo import layer_used_twice, parameter_list, tied_embedding
import weightshare as ws
from weightshare.errors import AlreadyShared, ModelChanged, NoMatch, SpecError
from weightshare.surgery import edit


def reasons(model: nn.Module, spec: ws.Codebook, where: Any = None) -> dict[str, str]:
    return {left.path: left.reason for left in ws.plan(model, spec, where).left_out}


def test_what_is_left_out_without_a_pattern() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(11, 13), "norm": nn.LayerNorm([3, 5]), "embed": nn.Embedding(17, 19)})
    found = reasons(model, ws.Codebook(clusters=2))
    assert set(found) == {"fc.bias", "norm.weight", "norm.bias", "embed.weight"}
    assert "fewer than two dimensions" in found["fc.bias"]
    assert "norm holds it" in found["norm.weight"]
    assert "name it in where=" in found["embed.weight"]
    assert {group.name for group in ws.plan(model, ws.Codebook(clusters=2), "embed").groups} == {"embed.weight"}


def test_what_stands_in_no_layer_is_shared_where_named() -> None:
    model, x = parameter_list()
    with pytest.raises(NoMatch, match="no weight of a Linear or Conv layer, but of a ParameterList"):
        ws.plan(model, ws.Codebook(clusters=3))
    ws.share_(model, ws.Codebook(clusters=3), "matrices")
    assert [matrix.unique().numel() for matrix in model.matrices] == [3] * 6
    wanted = output(model, x)
    ws.unshare_(model)
    assert bits(output(model, x)) == bits(wanted)
    assert list(model.state_dict()) == [f"matrices.{index}" for index in range(6)]


class Gated(nn.Module):
    """Several weights in one module, as experts and attentions have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.scale, self.down = (nn.Parameter(torch.randn(*shape)) for shape in ((5, 7), (7,), (7, 5)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.up) * self.scale @ self.down


def test_several_weights_of_one_module_and_several_plans() -> None:
    model, x = nn.Sequential(Gated()), torch.randn(3, 5)
    names_before = list(model.state_dict())
    ws.share_(model, ws.Codebook(clusters=3), "0.up")
    twin, wanted = copy.deepcopy(model), output(model, x)
    held = state(model)
    plan = ws.plan(model, ws.Codebook(clusters=2), "0.down")
    with mock.patch.object(edit.Transaction, "annotate", side_effect=KeyError), pytest.raises(KeyError):
        plan.apply_(model)
    assert state(model) == held
    assert bits(output(model, x)) == bits(wanted)
    plan.apply_(model)
    assert [w.unique().numel() for w in (model[0].up, model[0].down)] == [3, 2]
    assert bits(output(twin, x)) == bits(wanted)  # copies share a class, until one of them changes
    wanted = output(model, x)
    folded = ws.fold(model)
    ws.unshare_(model)
    for plain in (folded, model):
        assert list(plain.state_dict()) == names_before
        assert type(plain[0]) is Gated
        assert bits(output(plain, x)) == bits(wanted)


def test_what_several_paths_read() -> None:
    model, _ = tied_embedding()
    assert set(reasons(model, ws.Codebook(clusters=2))) >= {"embed.weight"}
    with pytest.raises(AlreadyShared, match=r"Cannot cluster 'embed\.weight'.*'head\.weight'.*unshare_"):
        ws.plan(model, ws.Codebook(clusters=2), "embed")
    with pytest.raises(AlreadyShared, match="already one parameter"):
        ws.plan(layer_used_twice().model, ws.Codebook(clusters=2), "1")


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(11, 13)))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(11, 13))
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


def bias_parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(11, 13))
    nn.utils.parametrize.register_parametrization(model[0], "bias", nn.Identity())
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (weight_norm, "its module is parametrized already"),
        (bias_parametrized, "its module is parametrized already"),
        (pruned, "a hook makes 'weight' from it"),
        (lambda: nn.LSTM(5, 7), "recurrent layers keep a second list"),
        (lambda: nn.Linear(5, 7, dtype=torch.complex64), "complex64, which have no means"),
    ],
)
def test_what_torch_cannot_parametrize_is_left_out_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    for where in (None, "*"):
        model = make()
        before = state(model)
        with pytest.raises(NoMatch, match=reason):
            ws.share_(model, ws.Codebook(clusters=2), where)
        assert state(model) == before


def test_nothing_to_save_is_refused_where_named() -> None:
    model = network()
    with pytest.raises(SpecError, match=r"143 values of 143 numbers would save nothing: a codebook of 572 bytes"):
        ws.plan(model, ws.Codebook(), "0")
    with pytest.raises(NoMatch, match="would save nothing"):
        ws.plan(model, ws.Codebook())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float) -> None:
    model = network()
    model[2].weight.data[1, 1] = value
    before = state(model)
    with pytest.raises(SpecError, match=r"'2\.weight': it holds NaN or infinity"):
        ws.share_(model, ws.Codebook(clusters=2))
    assert state(model) == before
    with pytest.raises(SpecError, match="meta"):
        ws.plan(network().to("meta"), ws.Codebook(clusters=2))


def test_zeros_and_one_cluster() -> None:
    model = few(network())
    with pytest.raises(SpecError, match="Take clusters=2 or more"):
        ws.plan(model, ws.Codebook(clusters=1))


def test_numbers_that_changed_since_the_plan() -> None:
    model = few(network())
    plan = ws.plan(model, ws.Codebook())
    model[2].weight.data[1, 1] = 77
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'2\.weight' gives 6 clusters, the plan was made for 5.*Plan again"):
        plan.apply_(model)
    assert state(model) == before


@pytest.mark.parametrize("change", ["another on top", "taken off", "on the bias"])
def test_what_was_done_to_a_shared_weight_since_is_said(change: str) -> None:
    model, _ = both(ws.Codebook())
    register = nn.utils.parametrize.register_parametrization
    done = {
        "another on top": lambda: register(model[0], "weight", nn.Identity()),
        "taken off": lambda: nn.utils.parametrize.remove_parametrizations(model[0], "weight"),
        "on the bias": lambda: register(model[0], "bias", nn.Identity()),
    }
    done[change]()
    before = state(model)
    for verb in (ws.unshare_, ws.fold):
        with pytest.raises(ModelChanged, match=r"'0\.weight' does not read its stored values alone any more"):
            verb(model)
        assert state(model) == before
