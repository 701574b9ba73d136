"""What users do to networks of templates that no formula speaks of: parts, moves, rates by layer, chains that grow."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import weightshare as ws
from weightshare.depth.fold import plan_loops
from weightshare.depth.loops import Looped
from weightshare.depth.templates import TemplateBank
from weightshare.errors import ModelChanged, NoMatch, SharingError, SpecError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(17)


class Net(nn.Module):
    """A chain of linear layers between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 5)
        self.blocks = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def parallel(model: nn.Module, *factors: float) -> nn.Module:
    """Every layer of each bank is the first one, times these factors in turn."""
    for bank in (module for module in model.modules() if isinstance(module, TemplateBank)):
        row = bank.coefficients.data[0].clone()
        for layer in range(len(bank.coefficients)):
            bank.coefficients.data[layer] = factors[layer % len(factors)] * row
    return model


def shared(model: nn.Module, *factors: float, where: str | None = None) -> nn.Module:
    ws.share_(model, ws.Templates(2), where)
    return parallel(model, *factors) if factors else model


def test_a_part_of_a_shared_model_is_refused(tmp_path: Path) -> None:
    """Its weights lie in the bank of the whole, so a file of it, a fold or a copy would lack them without a word."""
    part = shared(Net(), where="blocks.*.weight").blocks
    for use in (
        lambda: ws.save(part, tmp_path / "part.safetensors"),
        lambda: ws.fold(part),
        lambda: ws.report(part),
        lambda: ws.param_groups(part, 0.1),
        lambda: ws.check(torch.optim.SGD(part.parameters(), lr=0.1), part),
    ):
        with pytest.raises(ModelChanged, match=r"'0\.weight' reads a bank .* no part of this Sequential"):
            use()
    assert not list(tmp_path.iterdir())


SPECS = {
    "tied": ws.Tie(rate=4),
    "templates": ws.Templates(2),
    "through": ws.Tie(rate=4, fuse=ws.through(ws.mean)),
}


@pytest.mark.parametrize("name", SPECS)
def test_rates_by_layer_are_the_mean_of_the_readers(name: str) -> None:
    """Half the rate for each layer before: readers have 1/16 to 1/2, and the rest is as in the plain network."""
    model = Net()
    ws.share_(model, SPECS[name], "blocks.*.weight")
    rates = {
        path: group["lr"]
        for group in ws.param_groups(model, 0.1, layer_decay=0.5, lr=1.0)
        for path in group["param_names"]
    }
    assert (rates["stem.weight"], rates["blocks.0.bias"], rates["blocks.3.bias"]) == (1 / 32, 1 / 16, 1 / 2)
    assert rates["head.weight"] == 1.0
    slots = [rate for path, rate in rates.items() if "banks" in path] or [rates["blocks.0.weight"]]
    assert slots == [pytest.approx((1 / 16 + 1 / 8 + 1 / 4 + 1 / 2) / 4)] * len(slots)


def test_slots_of_a_bank_have_the_rates_of_their_own_readers() -> None:
    model = Net()
    ws.share_(model, ws.Tie(slots=[0, 1, 0, 1], fuse=ws.through(ws.mean)), "blocks.*.weight")
    rates = {
        path.rpartition(".")[2]: group["lr"]
        for group in ws.param_groups(model, 0.1, layer_decay=0.5, lr=1.0)
        for path in group["param_names"]
        if "banks" in path
    }
    even, odd = (1 / 16 + 1 / 4) / 2, (1 / 8 + 1 / 2) / 2
    assert rates == {"0": even, "1": odd, "2": even, "3": odd}


def test_what_a_bank_stores_is_no_layer() -> None:
    model = shared(nn.Sequential(*(nn.Sequential(*(nn.Linear(w, w) for _ in range(3))) for w in (5, 7))))
    with pytest.raises(NoMatch, match="stored by a plan that makes weights of it already"):
        ws.plan(model, ws.Templates(3, within="model"))
    with pytest.raises(SharingError, match="stored by a plan"):
        ws.plan(model, ws.Templates(3, within="model"), "*coefficients")


def test_tables_of_embeddings_are_no_layers() -> None:
    model = nn.ModuleList([nn.Embedding(7, 7, max_norm=0.5) for _ in range(3)])
    with pytest.raises(NoMatch, match="an embedding, whose rows are looked up"):
        ws.plan(model, ws.Templates(2))
    with pytest.raises(SpecError, match=r"Cannot make a mixture of '0\.weight': an embedding"):
        ws.plan(model, ws.Templates(2), "*.weight")


def test_convolutions_move_to_channels_last() -> None:
    """As training scripts for images do; and to another dtype, and to empty memory."""
    model = nn.Sequential(*(nn.Conv2d(5, 5, 3, padding=1) for _ in range(3)))
    shared(model)
    x = torch.randn(2, 5, 7, 7)
    wanted = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), wanted)
    model(x).sum().backward()
    assert all(tensor.grad is not None for tensor in model.parameters())
    assert model.double()(x.double()).dtype == torch.float64
    assert [tensor.shape for tensor in model.to_empty(device="meta").parameters() if tensor.ndim > 4] == [
        (2, 5, 5, 3, 3)
    ]


def test_templates_that_read_a_codebook_move_too() -> None:
    model = nn.Sequential(*(nn.Conv2d(5, 5, 3, padding=1) for _ in range(3)))
    shared(model)
    ws.share_(model, ws.Codebook(13), "*templates")
    x = torch.randn(2, 5, 7, 7)
    wanted = model(x)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x), wanted)
    assert model.double()(x.double()).dtype == torch.float64


def test_a_loop_that_grows_runs_all_that_it_holds() -> None:
    model = shared(nn.Sequential(*(nn.Linear(5, 5) for _ in range(4))), 1.0)
    folded = plan_loops(model).fold(model)
    assert isinstance(folded, Looped)
    x, last = torch.randn(3, 5), nn.Linear(5, 2)
    wanted = last(folded(x))
    folded.append(last)
    assert torch.equal(folded(x), wanted)
    assert folded.extra_repr() == "0 → 1 → 2 → 3 → 4"
    folded.insert(0, nn.Tanh())
    torch.testing.assert_close(folded(x), nn.Sequential(*folded)(x))


class Curious(nn.Module):
    """Asks its layer how wide it is, and gives it an argument more."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(5, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x, output_size=[2 * x.shape[2] + 1, 2 * x.shape[3]])
        return up[:, :, : x.shape[2], : x.shape[3]].reshape(-1, self.up.out_channels, *x.shape[2:])


def test_a_layer_with_a_factor_is_asked_as_before() -> None:
    model, x = shared(nn.Sequential(*(Curious() for _ in range(4))), 1.0, -0.5), torch.randn(2, 5, 3, 7)
    plan = plan_loops(model, batches=[x])
    folded = plan.fold(model)
    torch.testing.assert_close(folded(x), model(x))
    torch.testing.assert_close(copy.deepcopy(folded)(x), model(x))
    with pytest.raises(AttributeError, match="no attribute 'wings'"):
        folded[1].up.wings  # noqa: B018


def test_a_threshold_of_one_is_one_but_for_rounding() -> None:
    model = shared(nn.Sequential(*(nn.Linear(5, 5) for _ in range(6))), 1.0, 0.3, -0.7)
    assert plan_loops(model, threshold=1).removed == 5


def test_norms_of_two_dimensions_are_each_pass_own() -> None:
    blocks = [nn.Sequential(nn.Linear(5, 5), nn.LayerNorm((5, 5))) for _ in range(3)]
    model, x = shared(nn.Sequential(*blocks), 1.0, where="*.0.weight"), torch.randn(2, 5, 5)
    for block in model:
        nn.init.normal_(block[1].weight)
    plan = plan_loops(model, batches=[x])
    assert str(plan.chains[0]) == "3 × (0)"
    assert plan.output_error == 0


def test_layers_that_stay_mixtures_leave_their_blocks_apart() -> None:
    """Attention has no place for a factor, so its weights go on as mixtures, and blocks differ by them."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = shared(nn.TransformerEncoder(layer, 3), 1.0, -1.0, 0.5).eval()
    x = torch.randn(2, 5, 8)
    plan = plan_loops(model, batches=[x])
    assert plan.output_error is not None
    assert plan.output_error < 1e-6
    assert [group.plain for group in plan.groups] == [False, True, True, True]
    assert "has no place for a factor" in str(plan)
    assert not plan.chains[0].looped
    assert "have 'self_attn.in_proj_weight' of their own" in plan.chains[0].open[0]


def test_what_cannot_be_measured_is_said() -> None:
    model = shared(nn.Sequential(*(nn.Linear(5, 5) for _ in range(4))), 1.0)
    for batches, reason in ((torch.zeros(3, 5), "need a list of batches"), (5, "need a list"), ([], "given none")):
        with pytest.raises(SpecError, match=reason):
            plan_loops(model, batches=batches)  # pyright: ignore[reportArgumentType]
    next(m for m in model.modules() if isinstance(m, TemplateBank)).coefficients.data[1, 0] = float("nan")
    with pytest.raises(SpecError, match="hold NaN or infinity"):
        plan_loops(model)
