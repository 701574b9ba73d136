"""Adapters of PEFT on layers that share: merged, each layer keeps its own; what would go wrong is refused."""

import pytest
import torch
from torch import Tensor, nn

from tests.examples.test_peft_and_ema import WIDTH, Net, shared, with_lora
from tests.support import output, state
import weightshare as ws
from weightshare.errors import ModelChanged
from weightshare.integrations.peft import merged

from peft import LoraConfig, PeftModel, get_peft_model  # isort: skip


@pytest.fixture
def x() -> Tensor:
    return torch.randn(11, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("safe_merge", [False, True])
def test_merged_adapters_compute_as_before(x: Tensor, safe_merge: bool) -> None:
    lora = with_lora(ws.fold(shared()))
    wanted = output(lora, x)
    plain = merged(lora, safe_merge=safe_merge)
    assert type(plain) is Net
    torch.testing.assert_close(output(plain, x), wanted)
    assert len({id(block.weight) for block in plain.blocks}) == 3


def test_what_no_adapter_touches_stays_shared(x: Tensor) -> None:
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=r"blocks\.0", init_lora_weights=False)
    lora = get_peft_model(ws.fold(shared()), config)
    wanted = output(lora, x)
    plain = merged(lora)
    torch.testing.assert_close(output(plain, x), wanted)
    assert plain.blocks[1].weight is plain.blocks[2].weight
    assert plain.blocks[0].weight is not plain.blocks[1].weight


def test_adapters_are_saved_alone_and_fit_the_shared_model_again(x: Tensor, tmp_path) -> None:
    lora = with_lora(ws.fold(shared()))
    wanted = output(lora, x)
    lora.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(ws.fold(shared()), tmp_path)
    torch.testing.assert_close(output(again, x), wanted)
    torch.testing.assert_close(output(merged(again), x), wanted)


@pytest.mark.parametrize(
    "spec", [ws.Tie(rate=3), ws.Templates(2), ws.Codebook(3), ws.Tie(rate=3, fuse=ws.through(ws.mean))]
)
def test_plans_below_adapters_are_refused_and_folds_are_merged(spec: ws.Tie, x: Tensor) -> None:
    torch.manual_seed(0)
    model = Net()
    ws.share_(model, spec, "blocks.*.weight")
    lora = with_lora(ws.fold(model))
    wanted = output(lora, x)
    torch.testing.assert_close(output(merged(lora), x), wanted)
    early = with_lora(model)
    before = state(early)
    with pytest.raises(ModelChanged, match="Fold first"):
        merged(early)
    assert state(early) == before


def test_one_module_at_two_places_is_refused() -> None:
    torch.manual_seed(0)
    model = Net()
    model.blocks[2] = model.blocks[0]
    lora = with_lora(model)
    before = state(lora)
    with pytest.raises(ModelChanged, match="are of one module, which PEFT adapts under the first name only"):
        merged(lora)
    assert state(lora) == before


def test_a_model_without_adapters_is_refused() -> None:
    with pytest.raises(ModelChanged, match="Linear has no adapter"):
        merged(nn.Linear(2, 3))
