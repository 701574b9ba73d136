"""What timm's EMAs, PEFT and gradient checkpointing do to a weight that several layers read.

These are facts about other libraries that our documentation relies on. Where one of these tests fails after an update,
the library may have got better: then change what we say, and the example.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from tests.support import output, same_bits
import weightshare as ws
from weightshare.models.by_name import import_timm

timm = import_timm()  # before peft, which imports torchvision too
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict  # noqa: E402
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3  # noqa: E402

READERS, WIDTH, DECAY = 3, 7, 0.9


class Net(nn.Module):
    """Residual blocks, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(READERS))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(x)


def shared() -> Net:
    """All blocks read one weight, and have biases of their own."""
    torch.manual_seed(0)
    model = Net()
    ws.share_(model, ws.Tie(slots=[0] * READERS), where="blocks.*.weight")
    return model


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(value)


def averaged(make: Callable[[nn.Module], nn.Module], dtype: torch.dtype = torch.float32, steps: int = 1) -> nn.Module:
    """The averaged module after steps of a model whose numbers went from 1 to 0 at the start."""
    model = shared().to(dtype)
    fill(model, 1.0)
    ema = make(model)
    update = ema.update_parameters if isinstance(ema, AveragedModel) else ema.update
    if isinstance(ema, AveragedModel):
        update(model)  # its first update copies
    fill(model, 0.0)
    for _ in range(steps):
        update(model)
    average = ema.ema if isinstance(ema, ModelEma) else ema.module
    assert average.blocks[0].weight is average.blocks[-1].weight
    return average


SEVERAL_TIMES = {
    "V1": lambda model: ModelEma(model, DECAY),
    "V2": lambda model: ModelEmaV2(model, DECAY),
    "V3": lambda model: ModelEmaV3(model, DECAY),
    "V3, one by one": lambda model: ModelEmaV3(model, DECAY, foreach=False),
}
ONCE = {
    "V3 by parameters": lambda model: ModelEmaV3(model, DECAY, exclude_buffers=True),
    "V3 by parameters, one by one": lambda model: ModelEmaV3(model, DECAY, exclude_buffers=True, foreach=False),
    "torch": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY)),
    "torch, with buffers": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True),
}


@pytest.mark.parametrize(
    ("make", "times"),
    [*((make, READERS) for make in SEVERAL_TIMES.values()), *((make, 1) for make in ONCE.values())],
    ids=[*SEVERAL_TIMES, *ONCE],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_how_often_an_ema_averages_a_shared_weight(
    make: Callable[[nn.Module], nn.Module], times: int, steps: int
) -> None:
    average = averaged(make, steps=steps)
    assert average.blocks[0].weight.mean().item() == pytest.approx(DECAY ** (times * steps), rel=1e-5)
    assert average.blocks[0].bias.mean().item() == pytest.approx(DECAY**steps, rel=1e-5)


@pytest.mark.parametrize(
    ("exclude_buffers", "level"), [(False, READERS * (1 - DECAY) / (1 - DECAY**READERS)), (True, 1)]
)
def test_timms_float32_ema_of_a_bfloat16_network_is_no_mean_unless_by_parameters(
    exclude_buffers: bool, level: float
) -> None:
    model = shared().to(torch.bfloat16)
    fill(model, 1.0)
    ema = ModelEmaV3(model, DECAY, dtype=torch.float32, exclude_buffers=exclude_buffers)
    for _ in range(100):  # the numbers never change, and yet
        ema.update(model)
    assert ema.module.blocks[0].weight.mean().item() == pytest.approx(level, rel=1e-4)


def test_an_average_folds_like_the_model_it_is_of() -> None:
    small = ws.fold(averaged(ONCE["V3 by parameters"]))
    assert small.blocks[0].weight is small.blocks[1].weight
    assert ws.report(small).stored == ws.report(shared()).stored


CONFIG = {"r": 2, "target_modules": r"blocks\.\d+"}


def with_lora(model: nn.Module) -> PeftModel:
    """Adapters that are not zero, as after training."""
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**CONFIG, init_lora_weights=False))


@pytest.mark.parametrize("safe_merge", [False, True])
def test_merged_lora_adds_every_readers_update_to_the_shared_weight(safe_merge: bool) -> None:
    base, x = ws.fold(shared()), torch.randn(11, WIDTH)
    before = base.blocks[0].weight.detach().clone()
    lora = with_lora(base)
    wanted = output(lora, x)
    updates = [block.get_delta_weight("default") for block in base.blocks]
    merged = lora.merge_and_unload(safe_merge=safe_merge)  # warns of nothing, or the test would fail
    assert merged.blocks[0].weight is merged.blocks[-1].weight
    torch.testing.assert_close(merged.blocks[0].weight.detach(), before + sum(updates), rtol=0, atol=1e-5)
    assert (output(merged, x) - wanted).abs().max() > 0.1


def test_merged_lora_is_exact_once_nothing_is_shared() -> None:
    model, x = shared(), torch.randn(11, WIDTH)
    lora = with_lora(ws.fold(model))
    wanted = output(lora, x)
    ws.unshare_(model)
    own = get_peft_model(model, LoraConfig(**CONFIG))
    set_peft_model_state_dict(own, get_peft_model_state_dict(lora))
    torch.testing.assert_close(output(own.merge_and_unload(), x), wanted, rtol=0, atol=1e-5)


def test_training_lora_leaves_the_shared_weight_shared_and_unmoved() -> None:
    base = ws.fold(shared())
    before = [tensor.detach().clone() for tensor in base.parameters()]
    lora = get_peft_model(base, LoraConfig(**CONFIG))
    kept = [tensor for tensor in lora.parameters() if not tensor.requires_grad]
    optimizer = torch.optim.AdamW(ws.param_groups(lora, weight_decay=0.1), lr=0.1)
    ws.check(optimizer, lora)
    for _ in range(3):
        lora(torch.randn(11, WIDTH)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(tensor.numel() for group in optimizer.param_groups for tensor in group["params"]) == READERS * 4 * WIDTH
    assert all(block.lora_B["default"].weight.abs().max() > 0 for block in base.blocks)
    assert same_bits(kept, before)
    assert base.blocks[0].base_layer.weight is base.blocks[-1].base_layer.weight


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_lora_that_starts_by_taking_from_the_weight_needs_weights_of_its_own(start: str, tied: bool) -> None:
    model, x = shared(), torch.randn(11, WIDTH)
    wanted = output(model, x)
    if not tied:
        ws.unshare_(model)
    lora = get_peft_model(ws.fold(model), LoraConfig(**CONFIG, init_lora_weights=start))
    moved = (output(lora, x) - wanted).abs().max() > 1e-3
    assert moved == tied


def test_peft_adapts_a_module_that_stands_under_two_names_under_the_first_only() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(11, WIDTH)
    model.blocks[2] = model.blocks[0]
    lora = with_lora(model)
    assert [hasattr(block, "lora_A") for block in model.blocks] == [True, True, False]
    wanted = output(lora, x)
    assert (output(lora.merge_and_unload(), x) - wanted).abs().max() > 0.1  # the third reads what the first was given


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_checkpointing_gives_shared_layers_the_same_gradients_to_the_last_bit(precision: torch.dtype | None) -> None:
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 22, "depth": 4, "num_heads": 2, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", in_chans=1, **sizes)
    ws.share_(model, ws.Tie(slots=[0, 0, 1, 0]), where=["blocks.*.attn", "blocks.*.mlp"])
    images = torch.randn(3, 1, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = model(images).square().sum()
        model.zero_grad()
        loss.backward()
        gradients.append([tensor.grad for tensor in model.parameters()])
    assert same_bits(*gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0][:4])


def test_tokens_and_positions_of_timm_have_no_decay() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=22, depth=2, num_heads=2)
    decayed = [name for group in ws.param_groups(model, 0.1) if group["weight_decay"] for name in group["param_names"]]
    assert [name for name in decayed if "blocks" not in name] == ["patch_embed.proj.weight", "head.weight"]
