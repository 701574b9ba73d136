"""What template banks cost, each against its rival in the same run.

| benchmark | ours | rival | goal |
|---|---|---|---|
| generating 6 layers of 640 channels, `k` 2, 6 | a product | templates times coefficients, summed, by layer | 0.67 × |
| the same with its backward pass | | | 0.67 × |
| training step, batch 32 of 32×32 images | SWRN-28-10-2 | WRN-28-10 | 1.05 × |
| memory of parameters, gradients and momentum | SWRN-28-10-2 | WRN-28-10 | 0.6 × |

A step is a forward and a backward pass and SGD with Nesterov momentum and decay, float32. Beside the memory of what is
stored stand the bytes of the generated weights, and the peak of a process that takes two steps.
"""

from pathlib import Path
import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.depth.templates import TemplateBank

RESULTS = "templates"
LAYERS, CHANNELS, BATCH = (6, 5, 2) if TINY else (6, 640, 32)
ROOT = Path(__file__).parents[1]


def bank(templates):
    torch.manual_seed(0)
    weights = [0.05 * torch.randn(CHANNELS, CHANNELS, 3, 3) for _ in range(2)]
    held = torch.stack([weights[at % 2] for at in range(templates)])
    return TemplateBank(nn.Parameter(held), nn.Parameter(torch.randn(LAYERS, templates)))


def one_by_one(held):
    """The weight of each layer by the formula, as the public implementations have it."""
    return [(row.view(-1, 1, 1, 1, 1) * held.templates).sum(0) for row in held.coefficients]


@pytest.mark.parametrize("templates", [2, 6])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_generating_over_layer_by_layer(templates, backward, against):
    held = bank(templates)
    gradients = [torch.randn(CHANNELS, CHANNELS, 3, 3) for _ in range(LAYERS)]

    def run(make):
        def made():
            held.zero_grad()
            with torch.set_grad_enabled(backward):
                weights = make(held)
            if backward:
                torch.autograd.backward(list(weights), gradients)

        return made

    against(run(TemplateBank.make), run(one_by_one), rounds=11, at_most=1 / 1.5)


def network(name):
    torch.manual_seed(0)
    return ws.models.build(
        {"ours": "swrn:28/1/2" if TINY else "swrn:28/10/2", "rival": "wrn:28/1" if TINY else "wrn:28/10"}[name]
    )


def steps(model, batch=BATCH):
    optimizer = torch.optim.SGD(ws.param_groups(model, 5e-4), lr=0.1, momentum=0.9, nesterov=True)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def run():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    run.held = lambda: held_bytes(model, optimizer)
    return run


def held_bytes(model, optimizer):
    """Of parameters, their gradients, and what the optimizer keeps."""
    tensors = [*model.parameters(), *(tensor.grad for tensor in model.parameters() if tensor.grad is not None)]
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.nbytes for tensor in (*tensors, *kept))


def test_a_step_over_the_unshared_network(against):
    ours, rival = (steps(network(name)) for name in ("ours", "rival"))
    against(ours, rival, rounds=11, at_most=1.05)


PEAK = """
import sys
sys.path.insert(0, "benchmarks")
from test_templates import network, steps
run = steps(network(sys.argv[1]))
run(), run()
with open("/proc/self/status") as file:  # not getrusage, which may count what the process was forked from
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(run.held(), 1024 * peak)
"""


def measured_apart(name):
    """Bytes that a network's training holds, and the peak of a process that trains it."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    held, peak = done.stdout.split()
    return int(held), int(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's count")
def test_memory_over_the_unshared_network(measured):
    (ours, ours_peak), (rival, rival_peak) = (measured_apart(name) for name in ("ours", "rival"))
    generated = sum(4 * LAYERS * (16 * 10 * 2**stage) ** 2 * 9 for stage in range(3))
    measured(
        ratio=round(ours / rival, 4),
        ours_bytes=ours,
        rival_bytes=rival,
        generated_bytes=generated,
        ours_peak_bytes=ours_peak,
        rival_peak_bytes=rival_peak,
    )
    assert TINY or ours <= 0.6 * rival
