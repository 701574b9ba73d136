"""What two processes find that train a local network together: run by `test_parallel_sleep`, one process a rank."""

import os
import sys

import torch
from torch import nn
import torch.distributed as dist

from tests.support import bits
from weightshare.space.local import LocallyConnected2d
from weightshare.space.measure import space_sharing
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep

SLEEPS = (
    Sleep(every=2),
    Sleep(every=2, strength=0.3),
    Sleep(every=2, mode="hebbian"),
    Sleep(every=2, mode=Hebbian(noise=0.2, iterations=3)),
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = LocallyConnected2d(2, 3, 3, (5, 7), padding=1, bias="position")
    return nn.Sequential(
        first, nn.ReLU(), LocallyConnected2d(3, 5, 2, (5, 7), stride=2), nn.Flatten(), nn.Linear(30, 7)
    )


def train(outer: nn.Module, model: nn.Module, batches: torch.Tensor, spec: Sleep) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    handle = spec.attach_(optimizer, model)
    for batch in batches:
        optimizer.zero_grad()
        outer(batch).square().mean().backward()
        optimizer.step()
    assert (handle.steps, handle.sleeps) == (3, 2)


def ddp() -> None:
    """All processes hold the same weights to the bit, those of one process with the joined batch but for rounding."""
    batches = torch.randn(3, 2, 11, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    for spec in SLEEPS:
        model, alone = network(), network()
        torch.manual_seed(dist.get_rank())  # what a process draws itself decides nothing
        train(nn.parallel.DistributedDataParallel(model), model, batches[:, dist.get_rank()], spec)
        train(alone, alone, batches.flatten(1, 2), spec)
        mine = [bits(one) for one in model.parameters()]
        every: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(every, mine)
        assert every == [mine] * dist.get_world_size()
        for one, other in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert space_sharing(model[2]).within > space_sharing(network()[2]).within


def main(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{os.path.join(folder, 'store')}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for check in (ddp,):
        check()
        print(check.__name__, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
