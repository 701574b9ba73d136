"""Snapshots: what they put back lies in memory as it lay, whatever order that is."""

import pytest
import torch
from torch import nn

from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot

RUN = {"steps": 7, "recipe": {"epochs": 1}}


def transposed():
    layer = nn.Linear(5, 3)
    layer.weight = nn.Parameter(torch.randn(5, 3).mT)
    return layer


def channels_last():
    return nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("make", "shape"), [(transposed, (7, 5)), (channels_last, (7, 2, 5, 5))])
@pytest.mark.parametrize("fused", [True, False])
def test_weights_that_lie_otherwise_go_on_as_they_were(make, shape, fused, tmp_path):
    inputs = torch.randn(shape)

    def started():
        torch.manual_seed(3)
        model = make()
        return model, torch.optim.AdamW(model.parameters(), 0.1, fused=fused)

    def stepped(model, optimizer):
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = started()
    assert not model.weight.is_contiguous()
    stepped(model, optimizer)
    write_snapshot(tmp_path / "state.safetensors", model, optimizer, Progress(RUN, step=1), [generators()])
    resumed, its_optimizer = started()
    assert read_snapshot(tmp_path / "state.safetensors", resumed, its_optimizer, RUN).step == 1
    for _ in range(2):
        stepped(model, optimizer)
        stepped(resumed, its_optimizer)
        assert torch.equal(model.weight, resumed.weight)
        assert torch.equal(model.bias, resumed.bias)
    moments = optimizer.state[model.weight]["exp_avg"], its_optimizer.state[resumed.weight]["exp_avg"]
    assert torch.equal(*moments)
    assert moments[0].stride() == moments[1].stride() == model.weight.stride()
