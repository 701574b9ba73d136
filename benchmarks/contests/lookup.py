"""A layer whose weight is read from a codebook, forward and backward, against a lookup written by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

CLUSTERS, BATCH = 16, 64


def layer(width: int) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(width, width, bias=False)
    values = torch.linspace(-0.1, 0.1, CLUSTERS)
    linear.weight.data.copy_(values[torch.randint(CLUSTERS, (width, width))])
    return linear


def labels(width: int) -> tuple[Tensor, Tensor]:
    values, index = torch.unique(layer(width).weight.detach(), return_inverse=True)
    return values, index


def inputs(width: int) -> Tensor:
    return torch.randn(BATCH, width, generator=torch.Generator().manual_seed(1))


def error(width: int, found: tuple[Tensor, Tensor]) -> float:
    """Of the output and the codebook's gradient, relative."""
    values, index = labels(width)
    held = values.double().requires_grad_()
    out = F.linear(inputs(width).double(), held[index])
    (out**2).sum().backward()
    pairs = zip(found, (out.detach(), held.grad), strict=True)
    return max(float((one.double() - right).abs().max() / right.abs().max()) for one, right in pairs)


def passes(width: int, net: nn.Module, codebook) -> Task:
    x, out = inputs(width), []

    def run() -> None:
        net.zero_grad()
        out[:] = [net(x)]
        (out[0] ** 2).sum().backward()

    return Task(run, lambda: (out[0].detach(), codebook()))


def ours(width: int) -> Task:
    net = nn.Sequential(layer(width))
    ws.share_(net, ws.Codebook(gradient="sum"))
    held = net[0].parametrizations.weight.original
    return passes(width, net, lambda: held.grad)


class Lookup(nn.Module):
    """Values by labels."""

    def __init__(self, index: Tensor, how: str) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.how = how

    def forward(self, values: Tensor) -> Tensor:
        if self.how == "embedding":
            return F.embedding(self.index, values[:, None])[..., 0]
        if self.how == "gather":
            return values.expand(len(self.index), -1).gather(1, self.index)
        return values[self.index]


def by_hand(how: str):
    def make(width: int) -> Task:
        net = layer(width)
        values, index = labels(width)
        del net.weight
        net.weight = nn.Parameter(values)
        parametrize.register_parametrization(net, "weight", Lookup(index, how), unsafe=True)
        held = net.parametrizations.weight.original
        return passes(width, net, lambda: held.grad)

    return make


def dense(width: int) -> Task:
    net = layer(width)
    task = passes(width, net, lambda: None)
    return Task(task.run)


CONTEST = Contest(
    title="Weights read from a codebook",
    text=(
        "A linear layer of one width whose weight has 16 values, forward and backward, 64 inputs, float32; size "
        "is the width. The error is of the output and of the codebook's gradient, relative, against float64."
    ),
    unit="width",
    sizes=(128, 256, 512, 1024),
    shown=(128, 1024),
    tiny=8,
    error=error,
    off="relative error",
    ways={
        "ws.Codebook": Way(ours, ours=True),
        "parametrize, values[index]": Way(by_hand("index"), "its gradient adds one number at a time", goal=0.7),
        "parametrize, F.embedding": Way(by_hand("embedding"), "the same sums, by rows of one number", goal=0.9),
        "parametrize, gather": Way(
            by_hand("gather"), "labels of eight bytes, ours of one; both add in turn", goal=0.95
        ),
        "nn.Linear": Way(dense, "no rival: the layer without a codebook"),
    },
)
