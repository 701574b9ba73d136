"""Compilers: every method is compiled whole, and not again by what training does; the counts are those of the docs.

In a process of its own: the shape checks of the tests are no code that torch's compiler takes whole.
"""

import json

import pytest

from tests.support import python
from weightshare.experiments.studies.exporting import METHODS

OF_A_BANK = ("tie, LoRA of each layer", "templates")
LOCAL_OR_DENSE = ("lattice", "low rank", "sleep", "codebook", "proximal")
WANTED = {
    **dict.fromkeys(("unshared", "tie, mean"), (1, 2, 4, 4)),
    **dict.fromkeys(OF_A_BANK, (2, 3, 6, 6)),  # the hook that makes weights is a graph of its own
    "tie, trained through": (3, 4, 8, 8),  # two banks: weights and biases
    **dict.fromkeys(LOCAL_OR_DENSE, (1, 2, 3, 3)),  # no batch norm: evaluation is no other graph
}
QUICK = ("templates",)
COUNT = """
import json, sys
from weightshare.experiments.studies.exporting import traced
found = {name: traced(name) for name in sys.argv[1:]}
counts = {name: (one.breaks, one.steps, one.batches, one.evaluation, one.again) for name, one in found.items()}
print(json.dumps(counts))
"""


MANY_BANKS = """
import torch
from torch import nn
import weightshare as ws
from weightshare.depth.transform import LoRA

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(self.block() for _ in range(2))

    def block(self):
        return nn.Sequential(*(nn.Linear(6 + place, 7 + place) for place in range(6)), nn.Linear(12, 6))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

model = Net()
ws.share_(model, ws.Tie(rate=2, own=LoRA(1)))
compiled = torch.compile(model, fullgraph=True, backend="eager")
compiled(torch.randn(2, 6)).sum().backward()
model.eval()
for batch in (2, 3):
    given = torch.randn(batch, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(given), model(given))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(given), model(given))
print(sum(type(module).__name__.endswith("Bank") for module in model.modules()))
"""


def test_banks_of_many_shapes_stay_below_the_compilers_limit():
    assert int(python(MANY_BANKS)) == 14


def check(names):
    assert json.loads(python(COUNT, *names)) == {name: [0, *WANTED[name]] for name in names}


def test_training_compiles_a_network_once():
    check(QUICK)


@pytest.mark.slow
def test_training_compiles_a_network_of_any_method_once():
    check([name for name in METHODS if name not in QUICK])
