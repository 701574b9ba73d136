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


def test_processes_that_a_run_did_not_have_draw_numbers_of_their_own(tmp_path):
    model = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.manual_seed(4)
    own = [generators(), generators()]
    write_snapshot(tmp_path / "state.safetensors", model, optimizer, Progress(RUN | {"processes": 2}), own)

    def drawn(rank):
        read_snapshot(tmp_path / "state.safetensors", model, optimizer, RUN | {"processes": 4}, rank)
        return torch.rand(7).tolist()

    numbers = [drawn(rank) for rank in (0, 1, 2, 3, 2)]
    assert numbers[0] == numbers[1]  # whose states were equal here
    assert numbers[2] == numbers[4]
    assert len({tuple(row) for row in numbers}) == 3


def test_a_process_that_does_not_write_leaves_the_file_alone(tmp_path):
    model = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    write_snapshot(tmp_path / "state.safetensors", model, optimizer, Progress(RUN), [generators()], writes=False)
    assert list(tmp_path.iterdir()) == []
