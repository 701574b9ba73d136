"""What locally connected layers cost, in turn with rivals: read the ratios, not the seconds.

Forward and backward, by the input too, of 3×3 layers of padding 1 and stride 1, float32, two CPU cores: 16 channels at
32×32, 32 at 16×16, 64 at 8×8. Ours reads and writes channels last, rivals what suits them.

| ours | over | goal |
|---|---|---|
| layer, batch 64 | `F.unfold` and `einsum` | at least 1.5, 3 and 2 × faster: at most 0.667, 0.333, 0.5 |
| layer, batch 512 | `F.unfold` and `einsum` | at least 1.3 × faster: at most 0.769 |
| layer, batch 64 and 512 | `F.unfold` and `bmm`, kernels lying as ours | read it: the same product, patches stored |
| layer, batch 64 and 512 | `nn.Conv2d` of these sizes | read it: the convolution reads one kernel, not one a position |
| layer, batch 64 and 512 | copies of as many bytes as must be moved | read it: no layer can be faster than these |
| peak memory of a layer | `F.unfold` and `einsum` | at most 0.7 × |
| step of a local ResNet-20, 40.8 million weights, batch 128, AdamW | its layers by `einsum` | at most 0.5 |
| layer under AMP on a graphics card, batch 64 and 512 | `F.unfold` and `einsum` | at most 0.333 |

Memory is that of processes which do nothing else: their peak during one pass, less what they held before it.
"""

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.models import build
from weightshare.training.localise import Localise

RESULTS = "space"
LAYERS = {"16-32x32": (16, 32), "32-16x16": (32, 16), "64-8x8": (64, 8)}
if TINY:
    LAYERS = dict.fromkeys(LAYERS, (2, 3))
BATCHES = (64, 512)
STEP_BATCH = 2 if TINY else 128
ROOT = Path(__file__).parents[1]
LEAST = {64: {"16-32x32": 1.5, "32-16x16": 3.0, "64-8x8": 2.0}, 512: dict.fromkeys(LAYERS, 1.3)}
SHAPES = [(name, batch) for batch in BATCHES for name in LAYERS]
BY_SHAPE = pytest.mark.parametrize(("name", "batch"), SHAPES, ids=[f"{name}-batch{batch}" for name, batch in SHAPES])


@pytest.fixture(autouse=True)
def two_threads():
    """On both cores, as the goals are meant."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Unfolded(nn.Module):
    """A locally connected layer as it is usually written: patches unfolded, one `einsum` over all positions.

    Its kernels are those of a layer of ours, as `(in, out, height, width, taps)`.
    """

    def __init__(self, layer: ws.LocallyConnected2d) -> None:
        super().__init__()
        assert layer.groups == 1
        self.how = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        kernels = layer.weight.detach().squeeze(2).unflatten(2, (-1, layer.in_channels))  # height, width, taps, in, out
        self.weight = nn.Parameter(kernels.permute(3, 4, 0, 1, 2).contiguous())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        inner, _, height, width, taps = self.weight.shape
        patches = F.unfold(x, **self.how).view(x.shape[0], inner, taps, height, width)
        out = torch.einsum("nckhw,cohwk->nohw", patches, self.weight)
        return out if self.bias is None else out + self.bias[:, None, None]


class Batched(Unfolded):
    """The same with kernels `(positions, in·taps, out)`, where the product is one `torch.bmm`."""

    def __init__(self, layer: ws.LocallyConnected2d) -> None:
        super().__init__(layer)
        self.positions = self.weight.shape[2:4]
        kernels = self.weight.detach().permute(2, 3, 0, 4, 1)  # height, width, in, taps, out
        self.weight = nn.Parameter(kernels.flatten(2, 3).flatten(0, 1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, **self.how).permute(2, 0, 1)
        out = torch.bmm(patches, self.weight).permute(1, 2, 0).unflatten(2, self.positions)
        return out if self.bias is None else out + self.bias[:, None, None]


def local(name: str) -> ws.LocallyConnected2d:
    channels, size = LAYERS[name]
    torch.manual_seed(0)
    return ws.LocallyConnected2d(channels, channels, 3, size, padding=1, bias=False)


def passes(layer: nn.Module, name: str, batch: int, last: bool, device: str = "cpu") -> Callable[[], None]:
    """Forward and backward of a layer; `last` says whether channels lie last."""
    channels, size = LAYERS[name]
    batch = 2 if TINY else batch
    layer = layer.to(device)
    lie = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, channels, size, size, device=device).to(memory_format=lie).requires_grad_()
    g = torch.randn(batch, channels, size, size, device=device).to(memory_format=lie)
    half = device == "cuda"

    def run() -> None:
        x.grad = None
        layer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            out = layer(x)
        out.backward(g.to(out.dtype))
        if half:
            torch.cuda.synchronize()

    return run


def copies(name: str, batch: int) -> Callable[[], None]:
    """As many bytes as a layer has to move, each copied once.

    Kernels are read twice and their gradient is written once; of activations the input is read twice, the output
    written, its gradient read twice and the gradient of the input written. A copy reads one tensor and writes another,
    so that three tensors to be moved are one and a half copies.
    """
    channels, size = LAYERS[name]
    numbers = (3 * 9 * channels * channels * size * size + 6 * batch * channels * size * size) // 2
    source, target = torch.ones(numbers), torch.empty(numbers)

    def run() -> None:
        target.copy_(source)

    return run


@BY_SHAPE
def test_over_unfolding(name, batch, against):
    layer = local(name)
    other = Unfolded(layer)
    x = torch.randn(3, layer.in_channels, *layer.input_size)
    torch.testing.assert_close(layer(x), other(x), rtol=1e-4, atol=1e-4)
    ours, rival = passes(layer, name, batch, last=True), passes(other, name, batch, last=False)
    against(ours, rival, rounds=15 if batch < 100 else 7, at_most=1 / LEAST[batch][name])


@BY_SHAPE
def test_over_unfolding_and_bmm(name, batch, against):
    layer = local(name)
    other = Batched(layer)
    x = torch.randn(3, layer.in_channels, *layer.input_size)
    torch.testing.assert_close(layer(x), other(x), rtol=1e-4, atol=1e-4)
    ours, rival = passes(layer, name, batch, last=True), passes(other, name, batch, last=False)
    against(ours, rival, rounds=15 if batch < 100 else 7)


@BY_SHAPE
def test_over_the_convolution(name, batch, against):
    channels, _ = LAYERS[name]
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    against(passes(local(name), name, batch, True), passes(conv, name, batch, True), rounds=11)


@BY_SHAPE
def test_over_copies_of_what_must_be_moved(name, batch, against):
    against(passes(local(name), name, batch, True), copies(name, batch), rounds=11)


PEAK = """
import sys
import torch
from benchmarks.test_local import Unfolded, local, passes

def made(name):
    return local(name) if kind == "ours" else Unfolded(local(name))

def most():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024

kind, name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(2)
passes(made("64-8x8"), "64-8x8", 1, kind == "ours")()  # what is taken once, for threads and the code that runs
run = passes(made(name), name, batch, kind == "ours")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is what is held now
before = most()
run()
print(most() - before)
"""


def peak(kind: str, name: str, batch: int) -> int:
    """Bytes that a pass takes at most beyond what it is given; of a process, by the kernel's count."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK, kind, name, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@BY_SHAPE
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's count")
def test_peak_memory_over_unfolding(name, batch, measured):
    ours, rival = (peak(kind, name, batch) for kind in ("ours", "rival"))
    channels, size = LAYERS[name]
    least = 4 * (9 * channels**2 + 2 * batch * channels) * size**2  # gradients of kernels and input, and the output
    measured(ratio=round(ours / max(rival, 1), 4), ours_bytes=ours, rival_bytes=rival, least_bytes=least)
    assert TINY or ours <= 0.7 * rival


def network(unfolded: bool) -> nn.Module:
    """ResNet-20 of local layers alone, 40.8 million weights."""
    torch.manual_seed(0)
    model = build("resnet20:2/3/5" if TINY else "resnet20:16/32/64")
    Localise().apply_(model, torch.zeros(1, 3, 32, 32))
    if unfolded:
        for path, layer in list(model.named_modules()):
            if isinstance(layer, ws.LocallyConnected2d):
                model.set_submodule(path, Unfolded(layer))
    return model


def stepping(model: nn.Module, last: bool, batch: int) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    if last:
        images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def test_a_training_step_over_unfolding(against):
    ours, rival = network(unfolded=False), network(unfolded=True)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), rival.eval()(images), rtol=1e-3, atol=1e-3)
    steps = stepping(ours.train(), True, STEP_BATCH), stepping(rival.train(), False, STEP_BATCH)
    against(*steps, rounds=5, at_most=0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card here")
@BY_SHAPE
def test_on_a_card_over_unfolding(name, batch, against):
    layer = local(name)
    other = Unfolded(layer)
    ours, rival = passes(layer, name, batch, True, "cuda"), passes(other, name, batch, False, "cuda")
    against(ours, rival, rounds=31, at_most=1 / 3)
