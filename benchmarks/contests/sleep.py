"""Instant sharing of a local layer's kernels, `w ← mean over positions`, against torch and a loop."""

import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

CHANNELS = 16


def layer(side: int) -> ws.LocallyConnected2d:
    torch.manual_seed(0)
    return ws.LocallyConnected2d(CHANNELS, CHANNELS, 3, side, padding=1, bias=False)


def error(side: int, found: Tensor) -> float:
    exact = layer(side).weight.detach().double().mean((0, 1), keepdim=True)
    return float((found.double() - exact).abs().max())


def ours(side: int) -> Task:
    net = torch.nn.Sequential(layer(side))
    sleep = ws.Sleep(mode="instant", lattice=ws.Lattice(period=1))
    return Task(lambda: sleep.now_(net), lambda: net[0].weight.detach())


def by_mean(side: int) -> Task:
    weight = layer(side).weight.detach()

    def run() -> None:
        weight.copy_(weight.mean((0, 1), keepdim=True).expand_as(weight))

    return Task(run, lambda: weight)


def by_loop(side: int) -> Task:
    weight = layer(side).weight.detach()

    def run() -> None:
        total = torch.zeros_like(weight[0, 0])
        for row in range(side):
            for column in range(side):
                total += weight[row, column]
        total /= side**2
        for row in range(side):
            for column in range(side):
                weight[row, column] = total

    return Task(run, lambda: weight)


CONTEST = Contest(
    title="Instant sharing of kernels",
    text=(
        "`Sleep.now_` on a 3×3 layer of 16 channels, all positions in one class, float32. Size is the side of the"
        " image. Ours looks for local layers, checks that all numbers are finite, and takes sums in rows; the "
        "rivals know which tensor it is and check nothing."
    ),
    unit="side",
    sizes=(8, 16, 32, 64),
    shown=(16, 64),
    tiny=3,
    error=error,
    ways={
        "ws.Sleep.now_": Way(ours, ours=True),
        "mean and copy_": Way(by_mean, "two passes, nothing checked"),
        "loop over positions": Way(by_loop, "a call for each position", goal=0.5),
    },
)
