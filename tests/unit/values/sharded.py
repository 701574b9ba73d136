"""What two processes find on sharded parameters: run by `test_sharded_proximal`, one process a rank."""

import os
import sys

import pytest
import torch
from torch import nn
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.particles import exact
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values import proximal

ROWS, COLUMNS = 211, 307


def whole(seed: int = 0) -> torch.Tensor:
    """Of double precision, in which no two clusters round to one number."""
    return 0.05 * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_close(parameter: torch.Tensor, wanted: torch.Tensor, atol: float) -> None:
    got = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    torch.testing.assert_close(got.detach().double(), wanted.view_as(got).double(), rtol=0, atol=atol)


def sharded(placement: Shard | Replicate, mesh) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(distribute_tensor(whole(), mesh, [placement]))
    return model


def sort_free_on_shards(mesh) -> None:
    """Counts over both parts: the same answer as on the whole, within the bound, and weights that meet are equal."""
    for placement in (Shard(0), Shard(1), Replicate()):
        model = sharded(placement, mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        handle = ws.Proximal(strength=0.1, l1=0.01, rewind=0.5).attach_(optimizer, model, where="weight")
        alone = nn.Module()
        alone.weight = nn.Parameter(whole())
        other = torch.optim.SGD(alone.parameters(), lr=0.1)
        ws.Proximal(strength=0.1, l1=0.01, rewind=0.5).attach_(other, alone, where="weight")
        for _ in range(3):
            optimizer.step()
            other.step()
        check_close(model.weight, alone.weight, atol=1e-7)
        assert handle.bounds["weight"] > 0


def exact_on_shards(mesh) -> None:
    """Every part of the whole answer, whatever meets."""
    start = whole()
    for placement in (Shard(0), Shard(1), Replicate()):
        for granularity, axes in (("layer", None), ("row", 0)):
            model = sharded(placement, mesh)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            spec = ws.Proximal(strength=0.1, granularity=granularity, exact_every=1)
            handle = spec.attach_(optimizer, model, where="weight")
            optimizer.step()
            wanted = exact(start, 0.01) if axes is None else torch.stack([exact(row, 0.01) for row in start])
            check_close(model.weight, wanted, atol=1e-7)
            clusters = handle.finish()["weight"]
            assert clusters.shape == (ROWS, COLUMNS)
            assert handle.measure()["weight"]["distinct"] == int(clusters.max()) + 1 < ROWS * COLUMNS


def fsdp(mesh) -> None:
    """A network under `fully_shard`, against itself in one process with the joined batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(11, 13), nn.ReLU(), nn.Linear(13, 7))
    alone = nn.Sequential(nn.Linear(11, 13), nn.ReLU(), nn.Linear(13, 7))
    alone.load_state_dict(model.state_dict())
    fully_shard(model, mesh=mesh)
    batch = torch.randn(2, 17, 11, generator=torch.Generator().manual_seed(1))
    handles, optimizers = [], []
    for net in (model, alone):
        optimizers.append(torch.optim.AdamW(net.parameters(), lr=0.05))
        handles.append(ws.Proximal(strength=0.05).attach_(optimizers[-1], net, where="*.weight"))
    for _ in range(5):
        model(batch[dist.get_rank()]).square().mean().backward()
        torch.stack([alone(part).square().mean() for part in batch]).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for mine, whole_one in zip(model.parameters(), alone.parameters(), strict=True):
        check_close(mine, whole_one.detach(), atol=2e-5)
    found, wanted = (handle.finish() for handle in handles)
    assert found.keys() == wanted.keys() == {"0.weight", "2.weight"}
    assert handles[0].state_dict() == handles[1].state_dict()


def empty_part(mesh) -> None:
    """More processes than rows: one of them holds nothing and takes part all the same."""
    model = nn.Module()
    model.weight = nn.Parameter(distribute_tensor(whole()[:1], mesh, [Shard(0)]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(strength=0.1).attach_(optimizer, model, where="weight")
    optimizer.step()
    check_close(model.weight, exact(whole()[:1], 0.01), atol=1e-5)


def refused(_) -> None:
    """What would need more than one reduction a step says so."""
    square = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))
    model = nn.Module()
    model.weight = nn.Parameter(distribute_tensor(whole(), square, [Shard(0), Shard(1)]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=r"'weight' is placed as \(Shard\(dim=0\), Shard\(dim=1\)\): need one sharded"):
        ws.Proximal(strength=0.1).attach_(optimizer, model, where="weight")


def main(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{os.path.join(folder, 'store')}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    proximal.SORT_FREE_FROM = 1
    for check in (sort_free_on_shards, exact_on_shards, fsdp, empty_part, refused):
        check(mesh)
        print(check.__name__, flush=True)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # Not by the interpreter's own end: threads of gloo may outlive it, which aborts though all checks have passed.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
