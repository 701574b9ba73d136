"""A network of nine residual blocks, and the same written by hand as a function of the tensors that it reads."""

from collections.abc import Mapping, Sequence
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightshare as ws
from weightshare.depth import topology

DEPTH, WIDTH, HIDDEN, KERNEL = 9, 5, 7, 3
ROLES = ("norm.weight", "norm.bias", "mix.weight", "up.weight", "up.bias", "down.weight")
FACTORS = (0.5, 2.0, -1.0, 1.5, 0.25, 3.0, -0.75, 1.0, 0.125)

RATE = 1.5
"""Of 9 layers 6 slots; of a third of them 2: it divides neither in the simplest way."""

LABELS = {
    ("sequential", "uniform"): (0, 0, 1, 2, 2, 3, 4, 4, 5),
    ("sequential", "front"): (0, 0, 1, 2, 3, 4, 5, 6, 7),
    ("sequential", "middle"): (0, 1, 2, 3, 3, 4, 5, 6, 7),
    ("sequential", "back"): (0, 1, 2, 3, 4, 5, 6, 6, 7),
    ("strided", "uniform"): (0, 1, 2, 3, 4, 5, 0, 1, 2),
    ("strided", "front"): (0, 1, 0, 2, 3, 4, 5, 6, 7),
    ("strided", "middle"): (0, 1, 2, 3, 4, 3, 5, 6, 7),
    ("strided", "back"): (0, 1, 2, 3, 4, 5, 6, 7, 6),
}
"""Which layer reads which slot, by hand."""

ORDERS = {"sequential": ws.sequential, "strided": ws.strided, "random": ws.random(seed=5)}
SPREADS = {"uniform": ws.uniform, "front": topology.front, "middle": topology.middle, "back": topology.back}
FUSIONS = {"first": ws.first, "mean": ws.mean, "weighted": ws.weighted_mean(FACTORS)}
CASES = [(order, spread, fuse) for order in ORDERS for spread in SPREADS for fuse in FUSIONS]


def labels(order: str, spread: str) -> tuple[int, ...]:
    """The slots by hand; of the random order a shuffle of the sequential one, its slots numbered as they come."""
    if order != "random":
        return LABELS[order, spread]
    first = {"uniform": 0, "front": 0, "middle": 3, "back": 6}[spread]
    shuffled = list({"uniform": (0, 0, 1, 2, 2, 3, 4, 4, 5)}.get(spread, (0, 0, 1)))
    random.Random(5).shuffle(shuffled)
    names = [*range(-first, 0), *shuffled, *range(100, 100 + DEPTH - first - len(shuffled))]
    numbers = list(dict.fromkeys(names))
    return tuple(numbers.index(name) for name in names)


class Block(nn.Module):
    """Mix along the row, then a gated step of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding="same", groups=WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm(x).mT).mT
        return x + self.down(torch.tanh(self.up(x)))


class Network(nn.Module):
    """Blocks between two layers of their own; the norm's numbers are random so that each layer differs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
        self.head = nn.Linear(WIDTH, 11)
        for block in self.blocks:
            nn.init.normal_(block.norm.weight)
            nn.init.normal_(block.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network(seed: int = 0) -> Network:
    """In float64, so that a comparison is one of formulas and not of rounding."""
    torch.manual_seed(seed)
    return Network().double()


def example() -> Tensor:
    """`(batch, row, 2)`."""
    return torch.randn(3, 13, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(
    x: Tensor, ends: Mapping[str, Tensor], slots: Mapping[str, Sequence[Tensor]], reads: Sequence[int]
) -> Tensor:
    """The network without modules: layer `i` reads slot `reads[i]` of every role."""
    x = F.linear(x, ends["stem.weight"], ends["stem.bias"])
    for slot in reads:
        gain, shift, mix, up, bias, down = (slots[role][slot] for role in ROLES)
        normal = F.layer_norm(x, (WIDTH,), gain, shift)
        x = x + F.conv1d(normal.mT, mix, padding="same", groups=WIDTH).mT
        x = x + torch.tanh(x @ up.T + bias) @ down.T
    return F.linear(x, ends["head.weight"], ends["head.bias"])


def fused_by_hand(weights: Sequence[Tensor], reads: Sequence[int], fuse: str) -> list[Tensor]:
    """Each slot from the weights of its readers; a slot with one reader is that reader's weight."""
    slots = []
    for slot in range(max(reads) + 1):
        readers = [layer for layer, read in enumerate(reads) if read == slot]
        use_factors = fuse == "weighted" and weights[0].ndim > 1
        factors = [FACTORS[layer] if use_factors else 1.0 for layer in readers]
        summed = sum(factor * weights[layer] for factor, layer in zip(factors, readers, strict=True)) / len(readers)
        slots.append(weights[readers[0]] if fuse == "first" or len(readers) == 1 else summed)
    return [slot.detach().clone().requires_grad_() for slot in slots]
