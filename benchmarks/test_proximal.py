"""What a training step costs with weight-sharing regularisation, in turn with the plain step: read the ratios.

The torus MLP (196 → 1568 → 3136), batch 512, SGD, float32, both layers regularised.

| step | goal over the plain step |
|---|---|
| sort-free map | at most 1.25 × |
| exact map | at most 2.5 × |
"""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.models import torus_mlp
from weightshare.values.collisions import imminent_collisions, search_collisions

RESULTS = "values"
WIDTHS, BATCH = ((2, 3), 2) if TINY else ((8, 16), 512)


def stepping(**options) -> Callable[[], None]:
    """A training step of the network; with options, one that the map follows."""
    torch.manual_seed(0)
    model = torus_mlp(*WIDTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if options:
        for strength, where in ((1e-3, "fc1.weight"), (1e-4, "fc2.weight")):
            ws.Proximal(strength, **options).attach_(optimizer, model, where)
    images, labels = torch.randn(BATCH, 1, 14, 14), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    return step


def by_the_papers(algorithm) -> Callable[[], None]:
    """The plain step, and then one of the paper's algorithms on each layer, as ours run them."""
    torch.manual_seed(0)
    model = torus_mlp(*WIDTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(BATCH, 1, 14, 14), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for strength, weight in ((1e-3, model.fc1.weight), (1e-4, model.fc2.weight)):
                weight.copy_(algorithm(weight, 0.1 * strength))

    step()
    return step


STEPS = {
    "sort_free": lambda: stepping(every=1),
    "exact": lambda: stepping(exact_every=1),
    "rewound": lambda: stepping(rewind=0.98, l1=1e-4),
    "imminent": lambda: by_the_papers(imminent_collisions),
    "search": lambda: by_the_papers(search_collisions),
}


@pytest.mark.parametrize("name", STEPS)
def test_over_the_plain_step(name, against):
    against(STEPS[name](), stepping(), rounds=5 if name == "search" else 15)


class Alone:
    """The map by itself on the second layer's 4.9 million weights, beside a copy of them."""

    def __init__(self) -> None:
        self.weights = 0.05 * torch.randn((101 if TINY else 3136 * 1568), generator=torch.Generator().manual_seed(0))
        self.out = torch.empty_like(self.weights)

    def copy(self) -> None:
        self.out.copy_(self.weights)

    def sort_free(self) -> None:
        ws.prox_pairwise_binned(self.weights, 1e-5, out=self.out)


def test_the_sort_free_map_over_a_copy(against):
    alone = Alone()
    against(alone.sort_free, alone.copy, rounds=15)
