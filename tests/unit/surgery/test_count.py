"""Counts: stored once, logical at every name, MACs at every use."""

import pytest
import torch
from torch import nn

from tests.zoo import buffers, chain, half, tied_embedding, used_twice
from weightshare.errors import SpecError
from weightshare.surgery.count import Counts, count, macs


def test_a_shared_tensor_is_stored_once_and_read_twice() -> None:
    model, _ = tied_embedding()
    block = 2 * 5 + 7 * 5 + 7 + 5 * 7 + 5
    assert count(model) == Counts(65 + 4 * block, 2 * 65 + 4 * block, 4 * (65 + 4 * block), 0)


def test_a_module_used_twice_is_stored_once() -> None:
    model, _ = used_twice()
    counts = count(model)
    assert (counts.stored, counts.logical) == (5 * 30, 6 * 30)


def test_bytes_follow_the_dtype() -> None:
    assert count(half().model).bytes == 2 * count(half().model).stored


def test_buffers_are_no_parameters() -> None:
    model, _ = buffers()
    counts = count(model)
    assert counts.stored == 4 * (49 + 7 + 14)
    assert counts.buffer_bytes == 4 * (2 * 7 * 4 + 8)


def test_macs_of_linear_layers() -> None:
    model, example = chain(depth=2)
    assert macs(model, example) == 2 * (3 * 5 + 2 * (5 * 7 + 7 * 5) + 5 * 11)


def test_macs_of_a_grouped_convolution() -> None:
    conv = nn.Conv2d(15, 10, (3, 7), groups=5, padding="same")
    assert macs(conv, torch.zeros(2, 15, 11, 13)) == 2 * 11 * 13 * 10 * (15 // 5) * 3 * 7


def test_macs_count_every_use_of_a_shared_layer() -> None:
    model, example = used_twice()
    assert macs(model, example) == 2 * 6 * 25


def test_macs_count_attention() -> None:
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.zeros(1, 5, 6)
    assert macs(attention, (x, x, x)) == 5 * 6 * 18 + 2 * 5 * 5 * 6 + 5 * 6 * 6


@pytest.mark.parametrize("example", [torch.zeros(3, 2), (torch.zeros(3, 2),), {"input": torch.zeros(3, 2)}])
def test_macs_take_a_tensor_positional_or_named_arguments(example: object) -> None:
    assert macs(nn.Linear(2, 5), example) == 3 * 2 * 5


def mixed_flags() -> tuple[nn.Module, torch.Tensor, list[bool]]:
    model, example = buffers()
    model.train()
    model[3].eval()
    return model, example, [module.training for module in model.modules()]


def test_training_flags_and_statistics_are_as_before() -> None:
    model, example, flags = mixed_flags()
    statistics = [buffer.clone() for buffer in model.buffers()]
    macs(model, example)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(old, new) for old, new in zip(statistics, model.buffers(), strict=True))


def test_training_flags_are_restored_when_the_model_fails() -> None:
    model, _, flags = mixed_flags()
    with pytest.raises(SpecError, match="Sequential cannot run on the example input"):
        macs(model, torch.zeros(3, 11, 5, 2))
    assert [module.training for module in model.modules()] == flags
