"""Writing a model of shared weights to a file and reading it back, against what else writes models."""

from pathlib import Path
import shutil
import tempfile
import weakref
import zlib

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

LAYERS, CLUSTERS = 8, 16


def network(width: int, by_hand: bool = False) -> nn.Sequential:
    """Layers tied in twos, whose weights have 16 values each."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS)))
    values = torch.linspace(-0.1, 0.1, CLUSTERS)
    for layer in net:
        layer.weight.data.copy_(values[torch.randint(CLUSTERS, (width, width))])
    if by_hand:
        for one, other in zip(net[::2], net[1::2], strict=True):
            other.weight = one.weight
    else:
        ws.share_(net, ws.Tie(rate=2))
    return net


def error(width: int, found: list[Tensor]) -> float:
    return max(
        float((one - layer.weight).detach().abs().max()) for one, layer in zip(found, network(width), strict=True)
    )


def task(write, read, by_hand: bool = True):
    def make(width: int) -> Task:
        net, blank = network(width, by_hand), network(width, by_hand)
        for tensor in blank.parameters():
            tensor.data.zero_()
        folder = tempfile.mkdtemp()
        path = Path(folder) / "model"

        def run() -> None:
            write(net, path)
            read(path, blank)

        weakref.finalize(run, shutil.rmtree, folder)
        return Task(run, lambda: [layer.weight.detach() for layer in blank], lambda: path.stat().st_size)

    return make


def unpickle(path: Path, net: nn.Module) -> None:
    net.load_state_dict(torch.load(path, weights_only=True))


def deflate(net: nn.Module, path: Path) -> None:
    stored = {name: tensor.detach() for name, tensor in net.named_parameters()}
    path.write_bytes(zlib.compress(safetensors.torch.save(stored), level=1))


def inflate(path: Path, net: nn.Module) -> None:
    stored = safetensors.torch.load(zlib.decompress(path.read_bytes()))
    for name, tensor in net.named_parameters():
        tensor.data.copy_(stored[name])


CONTEST = Contest(
    title="Files of shared weights",
    text=(
        "Write and read again 8 linear layers of one width, tied in twos, whose weights have 16 values; size is "
        "the width. Bytes are of the file. Only ours flushes to the disk, sums the bytes of every tensor up, and "
        "finds few values."
    ),
    unit="width",
    sizes=(64, 128, 256, 512, 1024),
    shown=(64, 1024),
    tiny=32,
    error=error,
    stored="bytes",
    ways={
        "ws.save, ws.load": Way(task(ws.save, ws.load, by_hand=False), ours=True),
        "torch.save, torch.load": Way(
            task(lambda net, path: torch.save(net.state_dict(), path), unpickle), "a pickle; ties kept, nothing checked"
        ),
        "safetensors save_model": Way(
            task(
                lambda net, path: safetensors.torch.save_model(net, str(path)),
                lambda path, net: safetensors.torch.load_model(net, str(path)),
            ),
            "one copy of what is tied, nothing checked",
        ),
        "safetensors and zlib": Way(
            task(deflate, inflate), "small too, by compressing: level 1, the fastest", goal=0.8
        ),
    },
)
