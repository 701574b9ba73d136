"""int8 by torchao after folding: each slot is quantised once and stays one tensor, and digits stay right."""

import io

import pytest
import torch
from torch import Tensor, nn

from tests.support import state
import weightshare as ws
from weightshare.depth.transform import Scale
from weightshare.errors import ModelChanged
from weightshare.integrations.torchao import quantized
from weightshare.training.data.digits import digits
from weightshare.verbs import retie_

from torchao.quantization import (  # isort: skip
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

CONFIGS = {"weights": Int8WeightOnlyConfig, "activations too": Int8DynamicActivationInt8WeightConfig}
SPECS = {
    "tie": lambda: ws.Tie(rate=2),
    "scaled": lambda: ws.Tie(rate=2, own=Scale("scalar")),
    "through": lambda: ws.Tie(rate=2, fuse=ws.through(ws.mean)),
    "templates": lambda: ws.Templates(2),
    "clusters": lambda: ws.Codebook(16),
}


class Net(nn.Module):
    """Residual blocks on pixels."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


def trained(spec: str) -> nn.Module:
    torch.manual_seed(0)
    model, data = Net(), digits().train
    ws.share_(model, SPECS[spec](), "blocks.*.weight")
    optimizer = torch.optim.AdamW(ws.param_groups(model, 1e-2), lr=3e-3)
    images, labels = data[:]
    for rows in torch.randint(len(images), (150, 64)):
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    images, labels = digits().test[:]
    return (model(images).argmax(1) == labels).float().mean().item()


def size(model: nn.Module) -> int:
    """Of the state on disk, as torch writes it."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def distinct(model: nn.Module) -> int:
    return len({id(block.weight) for block in model.blocks})


QUICK = ("tie", "templates")


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=() if spec in QUICK else pytest.mark.slow) for spec in SPECS]
)
def test_digits_stay_right_and_the_state_is_as_small_as_what_is_stored(spec: str) -> None:
    model = trained(spec)
    before, reached = state(model), accuracy(model)
    assert reached > 0.9
    small = ws.fold(model)
    for config in CONFIGS.values():
        int8 = quantized(model, config())
        assert abs(accuracy(int8) - reached) <= 0.01
        assert distinct(int8) == distinct(small)
        matrices = [one for one in small.parameters() if one.ndim == 2]
        assert size(int8) < size(small) - 3 * sum(one.numel() for one in matrices) + 1024 * len(matrices) + 4096
        assert type(int8.stem.weight).__name__ == "Int8Tensor"
    assert state(model) == before


def test_a_state_of_shared_int8_weights_is_loaded_again() -> None:
    model = trained("tie")
    int8 = quantized(model, Int8WeightOnlyConfig())
    file = io.BytesIO()
    torch.save(int8.state_dict(), file)
    file.seek(0)
    again = ws.fold(model)
    again.load_state_dict(torch.load(file, weights_only=True), assign=True)
    images = digits().test[:][0]
    assert torch.equal(again(images), int8(images))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_torchaos_own_quantize_gives_every_reader_a_copy(config) -> None:
    """A fact about torchao, which `quantized` is for."""
    small = ws.fold(trained("tie"))
    assert distinct(small) == 2
    quantize_(small, config())
    assert distinct(small) == 4


def test_a_shared_model_that_was_quantised_is_refused_by_all_that_need_its_ties(tmp_path) -> None:
    model = trained("tie")
    optimizer = torch.optim.AdamW(ws.param_groups(model, 0.1))
    quantize_(model, Int8WeightOnlyConfig())
    for attempt in (
        lambda: ws.fold(model),
        lambda: retie_(model),
        lambda: ws.report(model),
        lambda: ws.save(model, tmp_path / "int8.safetensors"),
        lambda: quantized(model, Int8WeightOnlyConfig()),
    ):
        with pytest.raises(ModelChanged, match=r"it is a Int8Tensor.*before it is quantised"):
            attempt()
    with pytest.raises(ws.SharingError, match="were one parameter and no longer are"):
        ws.check(optimizer, model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", ["templates", "clusters", "through"])
def test_torchao_stops_at_weights_that_are_made(spec: str) -> None:
    """A fact about torchao: it sets an attribute that is a property here."""
    model = Net()
    ws.share_(model, SPECS[spec](), "blocks.*.weight")
    with pytest.raises(KeyError, match="attribute 'weight' already exists"):
        quantize_(model, Int8WeightOnlyConfig())


class Words(nn.Module):
    """A head that reads the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 32)
        self.again = nn.ModuleList([nn.Linear(32, 32)] * 2)
        self.head = nn.Linear(32, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for layer in self.again:
            x = torch.relu(layer(x))
        return self.head(x)


def test_a_slot_of_which_one_reader_alone_can_be_quantised_is_refused_and_can_be_left_out() -> None:
    torch.manual_seed(0)
    model = Words()
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'embed\.weight' and 'head\.weight' are one parameter, and would not be"):
        quantized(model, Int8WeightOnlyConfig())
    assert state(model) == before
    int8 = quantized(model, Int8WeightOnlyConfig(), lambda module, path: path.startswith("again."))
    assert int8.again[0] is int8.again[1]
    assert type(int8.again[1].weight).__name__ == "Int8Tensor"
    assert int8.head.weight is int8.embed.weight
    words = torch.arange(32)
    torch.testing.assert_close(int8(words), model(words), rtol=0.1, atol=0.1)
