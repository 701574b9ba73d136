"""ResNet-20 and its training as one writes them with PyTorch alone: what `test_resnet20.py` measures against.

It does what ours does: 3×3 convolutions or locally connected layers in their places (patches unfolded, one `einsum`
with kernels of their own at each position), batch norm, 1×1 shortcuts, crops out of a border of 4 pixels, AdamW.
Nothing is done in a step that can be done before: images are normalised, padded and lie channels last.
"""

from math import sqrt
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD, SIDE = 4, 32


class Local(nn.Module):
    """A convolution with kernels of its own at every position."""

    def __init__(self, into: int, out: int, kernel: int, size: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.side = (size + 2 * padding - kernel) // stride + 1
        start = torch.randn(out, into * kernel**2, self.side**2) * sqrt(2 / (out * kernel**2))
        self.weight = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)
        return torch.einsum("nkp,okp->nop", patches, self.weight).unflatten(2, (self.side, self.side))


def layer(local: bool, into: int, out: int, kernel: int, size: int, stride: int) -> nn.Module:
    if local:
        return Local(into, out, kernel, size, stride, kernel // 2)
    return nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    def __init__(self, local: bool, into: int, out: int, size: int, stride: int, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = layer(local, into, out, 3, size, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = layer(local, out, out, 3, size // stride, 1), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace)
        self.shortcut = nn.Sequential()
        if stride != 1 or into != out:
            self.shortcut = nn.Sequential(layer(local, into, out, 1, size, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet20(nn.Module):
    def __init__(self, local: bool, inplace: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(layer(local, 3, 16, 3, SIDE, 1), nn.BatchNorm2d(16), nn.ReLU(inplace))
        blocks, into, size = [], 16, SIDE
        for out, first in ((16, 1), (32, 2), (64, 2)):
            for stride in (first, 1, 1):
                blocks.append(Block(local, into, out, size, stride, inplace))
                into, size = out, size // stride
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(into, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Script:
    """The training script: `epoch` does one pass and says how many images it took a second.

    Args:
        images: `(n, 3, 32, 32)` uint8.
        labels: `(n)` int64.
        local: Whether layers are locally connected.
        batch: Images in a step.
        half: Whether in bfloat16, by autocast.
        inplace: Whether rectifiers write over what they read, as those of torchvision do.
    """

    def __init__(self, images: Tensor, labels: Tensor, local: bool, batch: int, half: bool, inplace: bool) -> None:
        torch.manual_seed(0)
        floats = images.float() / 255
        floats = (floats - floats.mean((0, 2, 3), keepdim=True)) / floats.std((0, 2, 3), keepdim=True)
        self.images = F.pad(floats, (PAD, PAD, PAD, PAD)).permute(0, 2, 3, 1).contiguous()
        self.labels, self.batch, self.half = labels, batch, half
        # Unfolding wants channels first, and so does all behind it.
        self.layout = torch.contiguous_format if local else torch.channels_last
        self.model = ResNet20(local, inplace)
        if not local:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-2)

    def crops(self, rows: Tensor) -> Tensor:
        down, right = torch.randint(0, 2 * PAD + 1, (2, len(rows), 1, 1))
        down, right = down + torch.arange(SIDE)[:, None], right + torch.arange(SIDE)
        return self.images[rows[:, None, None], down, right].permute(0, 3, 1, 2).contiguous(memory_format=self.layout)

    def epoch(self) -> float:
        before = time.perf_counter()
        self.model.train()
        total = torch.zeros(())
        for rows in torch.randperm(len(self.images)).split(self.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                loss = F.cross_entropy(self.model(self.crops(rows)), self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        assert total.isfinite()
        return len(self.images) / (time.perf_counter() - before)
