"""Which weights the values axis means where nobody says: those of linear layers and convolutions of any library."""

import pytest
import torch
from torch import Tensor, nn

from tests.support import output
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.models.by_name import mend_torchvision
from weightshare.space.local import LocallyConnected1d
from weightshare.space.patches import PatchLinear
from weightshare.values.choice import trained_weights
from weightshare.values.measure import value_sharing


class Conv1D(nn.Module):
    """As in GPT-2 of transformers: a linear layer whose weight is stored as (in, out)."""

    def __init__(self, out: int, into: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(into, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class ExpertsLinear(nn.Module):
    """Several matrices in one, as mixtures of experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 13, 17))


class Attention(nn.Module):
    """Torch's own, on one input."""

    def __init__(self, **options: int) -> None:
        super().__init__()
        self.of = nn.MultiheadAttention(14, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x, x, x)[0]


def meant(model: nn.Module) -> list[str]:
    """What a `Codebook`, a `Proximal` and a measure mean without a pattern: all the same."""
    planned = [group.name for group in ws.plan(model, ws.Codebook(2)).groups]
    assert planned == [site.path for site in trained_weights(model, None, "Test")]
    assert planned == [row.path for row in value_sharing(model)]
    return planned


def test_layers_of_other_libraries_are_layers() -> None:
    model = nn.ModuleDict({"mine": Conv1D(17, 13), "torchs": nn.Linear(13, 17), "many": nn.Conv1d(13, 11, 3)})
    assert meant(model) == ["mine.weight", "torchs.weight", "many.weight"]


def test_a_gpt2_shares_all_its_matrices() -> None:
    mend_torchvision()  # which transformers imports
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 14, "n_head": 2, "vocab_size": 31, "n_positions": 11}
    small = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert meant(transformers.GPT2Model(small)) == [f"h.{n}.{layer}.weight" for n in range(2) for layer in layers]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["of.in_proj_weight", "of.out_proj.weight"]),
        ({"kdim": 10}, ["of.q_proj_weight", "of.k_proj_weight", "of.v_proj_weight", "of.out_proj.weight"]),
    ],
)
def test_the_maps_of_an_attentions_input_are_meant(options: dict[str, int], names: list[str]) -> None:
    assert meant(Attention(**options)) == names


def test_an_attention_computes_with_its_codebooks() -> None:
    model, x = Attention(), torch.randn(3, 5, 14)
    plan = ws.share_(model, ws.Codebook(8))
    assert [group.name for group in plan.groups] == ["of.in_proj_weight", "of.out_proj.weight"]
    assert model.of.in_proj_weight.unique().numel() == 8
    assert output(ws.fold(model), x).equal(output(model, x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Embedding(17, 13),
        nn.Bilinear(5, 7, 11),
        ExpertsLinear(),
        PatchLinear(5, 7, 11),
        LocallyConnected1d(3, 5, 2, 21),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_no_single_map_stays_out_unless_named(layer: nn.Module) -> None:
    model = nn.ModuleDict({"one": layer, "fc": nn.Linear(17, 19)})
    assert meant(model) == ["fc.weight"]
    with pytest.raises(SpecError, match=r"Test: .* has no trainable weight of a Linear or Conv layer"):
        trained_weights(layer, None, "Test")


def test_rows_of_a_layer_that_stores_its_inputs_first_are_its_outputs() -> None:
    linear, other = nn.Linear(13, 17), Conv1D(17, 13)
    with torch.no_grad():
        other.weight.copy_(linear.weight.T)
    for layer in (linear, other):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer.weight.grad = torch.zeros_like(layer.weight)
        ws.Proximal(strength=0.1, granularity="row").attach_(optimizer, layer)
        optimizer.step()
    assert other.weight.T.equal(linear.weight)
    assert other.weight.T[0].unique().numel() < 13
