"""Transactions: whatever is raised, the model is what it was to the last bit."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import Case, chain, parameter_list, parametrized, recurrent, tied_embedding
from weightshare.errors import ModelChanged
from weightshare.surgery.derived import Source, sources
from weightshare.surgery.edit import Transaction, transaction
from weightshare.surgery.parametrized import foreign_parametrizations


def fill_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


class Stop(BaseException):
    """No `Exception` at all."""


def attempt(model: nn.Module, body: Callable[[Transaction], None], error: type[BaseException] = ValueError) -> None:
    """Edit a model, then raise."""
    with transaction(model) as edits:
        body(edits)
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit, Stop])
def test_every_kind_of_edit_is_undone_on_any_exception(error: type[BaseException]) -> None:
    model, _ = chain()
    model.blocks.note = ("old",)
    fill_gradients(model)
    before = state(model)

    def body(edits: Transaction) -> None:
        edits.write(model.stem.weight, torch.full((5, 3), float("nan")))
        edits.put("blocks.1.fc1.weight", model.blocks[0].fc1.weight)
        edits.put("blocks.2.fc1.weight", model.blocks[0].fc1.weight)
        edits.forget_gradient(model.blocks[0].fc1.weight)
        edits.annotate("note", ("new",), at="blocks")
        edits.annotate("other", 3)
        assert state(model) != before

    with pytest.raises(error):
        attempt(model, body, error)
    assert state(model) == before


def test_edits_of_one_place_are_undone_newest_first() -> None:
    model, _ = chain()
    before = state(model)

    def body(edits: Transaction) -> None:
        for value in (1.0, 2.0):
            edits.write(model.stem.weight, torch.full((5, 3), value))
            edits.put("head.bias", nn.Parameter(torch.full((11,), value)))
            edits.annotate("note", value)

    with pytest.raises(ValueError):
        attempt(model, body)
    assert state(model) == before


def test_edits_stay_when_nothing_is_raised() -> None:
    model, _ = chain()
    weight = model.stem.weight
    with transaction(model) as edits:
        edits.write(weight, torch.ones(5, 3))
        edits.put("blocks.1.fc1.weight", model.blocks[0].fc1.weight)
        edits.annotate("note", "kept")
    assert model.stem.weight is weight
    assert torch.equal(weight, torch.ones(5, 3))
    assert model.blocks[1].fc1.weight is model.blocks[0].fc1.weight
    assert model.note == "kept"


def test_order_and_ties_survive_a_roll_back() -> None:
    model, _ = tied_embedding()
    before = state(model)
    with pytest.raises(ValueError):
        attempt(model, lambda edits: edits.put("head.weight", nn.Parameter(torch.ones(13, 5))))
    assert state(model) == before
    assert model.head.weight is model.embed.weight


def test_recurrent_layers_keep_their_second_list_in_step() -> None:
    model, _ = recurrent()
    first, second = model.layers[0], model.layers[1]
    before = state(model)

    def body(edits: Transaction) -> None:
        edits.put("layers.1.weight_ih_l0", first.weight_ih_l0)
        assert second._flat_weights[0] is first.weight_ih_l0

    with pytest.raises(ValueError):
        attempt(model, body)
    assert state(model) == before


@pytest.mark.parametrize(
    ("make", "path"), [(parameter_list, "matrices.3"), (parametrized, "1.parametrizations.weight.original1")]
)
def test_containers_of_parameters_are_edited_like_modules(make: Callable[[], Case], path: str) -> None:
    model, _ = make()
    before = state(model)
    with pytest.raises(ValueError):
        attempt(model, lambda edits: edits.put(path, nn.Parameter(torch.zeros_like(model.get_parameter(path)))))
    assert state(model) == before


def test_write_keeps_object_and_storage() -> None:
    model, _ = chain()
    address = model.stem.weight.data_ptr()
    with transaction(model) as edits:
        edits.write(model.stem.weight, torch.ones(5, 3))
    assert model.stem.weight.data_ptr() == address


def test_write_writes_signed_zeros() -> None:
    model, _ = chain()
    nn.init.zeros_(model.stem.bias)
    with transaction(model) as edits:
        edits.write(model.stem.bias, -torch.zeros(5))
    assert torch.signbit(model.stem.bias).all()


def test_annotate_none_removes() -> None:
    model, _ = chain()
    model.note = 3
    with transaction(model) as edits:
        edits.annotate("note", None)
        edits.annotate("never_there", None)
    assert "note" not in vars(model)


class Wrapper(nn.Module):
    """Shows the weight of what it wraps under its own name, as PEFT's layers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> nn.Parameter:
        return self.inner.weight


def test_a_parameter_that_a_wrapper_only_shows_is_refused() -> None:
    model = nn.Sequential(Wrapper(nn.Linear(2, 3)))
    before = state(model)
    with (
        pytest.raises(ModelChanged, match=r"'0\.weight' belongs to another module, which Wrapper wraps.*unload"),
        transaction(model) as edits,
    ):
        edits.put("0.weight", nn.Parameter(torch.zeros(3, 2)))
    assert state(model) == before


def test_modules_that_were_put_in_or_taken_out_are_back() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    model.again = model[1][0]
    before = {path: id(module) for path, module in model.named_modules(remove_duplicate=False)}

    def body(edits: Transaction) -> None:
        edits.add_child("1.new", nn.Identity())
        edits.drop_child("1.1")
        edits.replace("1.0", nn.Identity())
        assert isinstance(model.again, nn.Identity)
        assert list(model[1]._modules) == ["0", "new"]

    with pytest.raises(ValueError):
        attempt(model, body)
    assert {path: id(module) for path, module in model.named_modules(remove_duplicate=False)} == before


def test_decoded_tensors_are_parameters_again() -> None:
    class Doubled(nn.Module):
        """Twice what is stored."""

        def forward(self, stored: torch.Tensor) -> torch.Tensor:
            return 2 * stored

        def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
            return weight / 2

    model, _ = chain()
    block = model.blocks[1].fc1
    before, kind = state(model), type(block)

    def body(edits: Transaction) -> None:
        for name in ("weight", "bias"):
            stored = nn.Parameter(block.get_parameter(name).detach() / 2)
            edits.decode(f"blocks.1.fc1.{name}", Doubled(), stored)
        assert foreign_parametrizations(block) == []
        edits.undecode("blocks.1.fc1.bias")
        assert [name for name, _ in block.named_parameters()] == ["bias", "parametrizations.weight.original"]
        edits.undecode("blocks.1.fc1.weight")
        assert [name for name, _ in block.named_parameters()] == ["weight", "bias"]
        assert type(block) is kind

    with pytest.raises(ValueError):
        attempt(model, body)
    assert state(model) == before


def test_parametrizations_of_others_are_known() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    assert foreign_parametrizations(layer) == ["weight"]
    assert foreign_parametrizations(nn.Linear(2, 3)) == []
    with transaction(layer) as edits, pytest.raises(ModelChanged, match="parametrized already"):
        edits.decode("bias", nn.Identity(), nn.Parameter(torch.zeros(3)))


def test_what_read_a_source_is_a_plain_module_again() -> None:
    class Ones(Source):
        def tensor(self) -> torch.Tensor:
            return torch.ones(7, 5)

    model, _ = chain()
    layer = model.blocks[0].fc1
    before, entries, kind = state(model), list(vars(layer)), type(layer)

    def body(edits: Transaction) -> None:
        edits.derive("blocks.0.fc1.weight", Ones())
        assert torch.equal(layer.weight, torch.ones(7, 5))
        assert list(sources(layer)) == ["weight"]

    with pytest.raises(ValueError):
        attempt(model, body)
    assert (state(model), list(vars(layer)), type(layer)) == (before, entries, kind)
