"""A locally connected layer, forward and backward by kernels and input, against what else does the same."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

CHANNELS, TAPS = 16, 3


def batch(side: int) -> int:
    return 2 if side < 8 else 64


def drawn(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, gradient of the output, and kernels `(side, side, taps·in, out)` with taps by rows, in that order."""
    source = torch.Generator().manual_seed(0)
    shape = (batch(side), CHANNELS, side, side)
    kernels = torch.randn(side, side, TAPS**2 * CHANNELS, CHANNELS, generator=source) / math.sqrt(TAPS**2 * CHANNELS)
    return torch.randn(shape, generator=source), torch.randn(shape, generator=source), kernels


def error(side: int, result: tuple[Tensor, Tensor]) -> float:
    """Of the output and of the gradient of the input, over their greatest number."""
    x, g, kernels = (one.double() for one in drawn(side))
    x.requires_grad_()
    patches = F.unfold(x, TAPS, padding=1).view(len(x), CHANNELS, TAPS**2, side, side)
    exact = torch.einsum("nckhw,hwkco->nohw", patches, kernels.unflatten(2, (TAPS**2, CHANNELS)))
    exact.backward(g)
    pairs = zip(result, (exact.detach(), x.grad), strict=True)
    return max(float((found.double() - right).abs().max() / right.abs().max()) for found, right in pairs)


def passes(side: int, layer: nn.Module, last: bool = False) -> Task:
    x, g, _ = drawn(side)
    if last:
        x, g = (one.to(memory_format=torch.channels_last) for one in (x, g))
    x.requires_grad_()
    out: list[Tensor] = []

    def run() -> None:
        x.grad = None
        layer.zero_grad()
        out[:] = [layer(x)]
        out[0].backward(g)

    return Task(run, lambda: (out[0].detach(), x.grad))


def ours(side: int) -> Task:
    layer = ws.LocallyConnected2d(CHANNELS, CHANNELS, TAPS, side, padding=1, bias=False)
    layer.weight.data.copy_(drawn(side)[2].unsqueeze(2))
    return passes(side, layer, last=True)


class Unfolded(nn.Module):
    """Patches by `F.unfold`, and a product with kernels that lie as suits it."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        kernels = drawn(side)[2].unflatten(2, (TAPS**2, CHANNELS))
        self.weight = nn.Parameter(self.laid(kernels).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.product(F.unfold(x, TAPS, padding=1)).unflatten(-1, (self.side, self.side))


class ByEinsum(Unfolded):
    def laid(self, kernels: Tensor) -> Tensor:
        return kernels.permute(4, 3, 2, 0, 1).flatten(1, 2).flatten(2)  # out, in·taps, positions

    def product(self, patches: Tensor) -> Tensor:
        return torch.einsum("nkp,okp->nop", patches, self.weight)


class ByMatmul(Unfolded):
    def laid(self, kernels: Tensor) -> Tensor:
        return kernels.permute(0, 1, 4, 3, 2).flatten(3).flatten(0, 1)  # positions, out, in·taps

    def product(self, patches: Tensor) -> Tensor:
        return torch.matmul(self.weight, patches.permute(2, 1, 0)).permute(2, 1, 0)


class ByBmm(Unfolded):
    def laid(self, kernels: Tensor) -> Tensor:
        return kernels.permute(0, 1, 3, 2, 4).flatten(2, 3).flatten(0, 1)  # positions, in·taps, out

    def product(self, patches: Tensor) -> Tensor:
        return torch.bmm(patches.permute(2, 0, 1), self.weight).permute(1, 2, 0)


class ByGroups(Unfolded):
    def laid(self, kernels: Tensor) -> Tensor:
        return kernels.permute(0, 1, 4, 3, 2).flatten(3).flatten(0, 2)[..., None]  # positions·out, in·taps, 1

    def product(self, patches: Tensor) -> Tensor:
        positions = self.side**2
        seen = patches.transpose(1, 2).reshape(len(patches), -1, 1)
        return F.conv1d(seen, self.weight, groups=positions).view(len(patches), positions, -1).transpose(1, 2)


class ByPositions(Unfolded):
    """What is published of Keras's first implementation: a slice for each position, stacked, one batched product."""

    def laid(self, kernels: Tensor) -> Tensor:
        return kernels.permute(0, 1, 3, 2, 4).flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1))
        places = [(row, column) for row in range(self.side) for column in range(self.side)]
        slices = [x[:, :, row : row + TAPS, column : column + TAPS].flatten(1) for row, column in places]
        out = torch.bmm(torch.stack(slices), self.weight)
        return out.permute(1, 2, 0).unflatten(2, (self.side, self.side))


def by_keras(implementation: int):
    """Keras 2's own layer. It pads nothing, so its input is padded before."""

    def make(side: int) -> Task:
        import tensorflow as tf
        import tf_keras

        x, g, kernels = drawn(side)
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous().numpy()
        layer = tf_keras.layers.LocallyConnected2D(CHANNELS, TAPS, use_bias=False, implementation=implementation)
        layer.build(padded.shape)
        layer.set_weights([_keras_kernels(layer, implementation, side, kernels)])
        seen, back = tf.constant(padded), tf.constant(g.permute(0, 2, 3, 1).contiguous().numpy())

        @tf.function
        def both():
            with tf.GradientTape() as tape:
                tape.watch(seen)
                out = layer(seen)
            return out, *tape.gradient(out, [seen, *layer.trainable_weights], output_gradients=back)

        found: list = []

        def run() -> None:
            found[:] = [one.numpy() for one in both()[:2]]

        def result() -> tuple[Tensor, Tensor]:
            out, grad = (torch.from_numpy(one).permute(0, 3, 1, 2) for one in found)
            return out, grad[:, :, 1:-1, 1:-1]

        return Task(run, result)

    return make


def _keras_kernels(layer, implementation: int, side: int, kernels: Tensor):
    """The same numbers as its implementation has them."""
    if implementation == 1:
        return kernels.flatten(0, 1).numpy()
    wide = side + 2
    dense = torch.zeros(wide, wide, CHANNELS, side, side, CHANNELS)
    taps = kernels.unflatten(2, (TAPS, TAPS, CHANNELS))
    for row in range(side):
        for column in range(side):
            window = dense[row : row + TAPS, column : column + TAPS, :, row, column]
            window.copy_(taps[row, column])
    if implementation == 2:
        return dense.numpy()
    flat = dense.flatten(3).flatten(0, 2)  # inputs, outputs
    rows = torch.tensor(layer.kernel_idxs)
    inputs, outputs = (rows[:, 1], rows[:, 0]) if rows[:, 0].max() < flat.shape[1] else (rows[:, 0], rows[:, 1])
    return flat[inputs, outputs].numpy()


def by_flax(side: int) -> Task:
    import flax.linen
    import jax
    import jax.numpy as jnp

    x, g, kernels = drawn(side)
    layer = flax.linen.ConvLocal(CHANNELS, (TAPS, TAPS), padding="SAME", use_bias=False)
    # It numbers the inputs of a kernel by channel first.
    kernel = kernels.unflatten(2, (TAPS**2, CHANNELS)).transpose(2, 3).flatten(2, 3).contiguous()
    held = {"params": {"kernel": jnp.asarray(kernel.numpy())}}
    seen, back = (jnp.asarray(one.permute(0, 2, 3, 1).contiguous().numpy()) for one in (x, g))

    @jax.jit
    def both(held, seen, back):
        out, pull = jax.vjp(layer.apply, held, seen)
        return out, *pull(back)[::-1]

    found: list = []

    def run() -> None:
        found[:] = jax.block_until_ready(both(held, seen, back))

    def result() -> tuple[Tensor, Tensor]:
        out, grad = (torch.from_dlpack(one).permute(0, 3, 1, 2) for one in found[:2])
        return out, grad

    return Task(run, result)


def by_convolution(side: int) -> Task:
    conv = nn.Conv2d(CHANNELS, CHANNELS, TAPS, padding=1, bias=False).to(memory_format=torch.channels_last)
    return Task(passes(side, conv, last=True).run)


def written(kind: type[Unfolded]):
    return lambda side: passes(side, kind(side))


CONTEST = Contest(
    title="Locally connected layers",
    text=(
        "Forward and backward, by the input too, of a 3×3 layer of 16 channels and padding 1, 64 images, float32."
        " Size is the side of the image. Every way has the same kernels, lying as suits it; the error is of the "
        "output and of the gradient of the input, over their greatest number, against float64."
    ),
    unit="side",
    sizes=(8, 16, 32, 64),
    shown=(16, 32),
    tiny=3,
    error=error,
    checked=8,
    off="relative error at 8",
    ways={
        "ws.LocallyConnected2d": Way(ours, ours=True),
        "unfold + einsum": Way(written(ByEinsum), "stores every patch, and einsum copies it again", goal=0.5),
        "unfold + matmul": Way(written(ByMatmul), "stores every patch; kernels before patches", goal=0.5),
        "unfold + bmm": Way(written(ByBmm), "stores every patch; the same product as ours", goal=0.5),
        "unfold + grouped conv1d": Way(written(ByGroups), "a group for each position, of few numbers", goal=0.5),
        "loop over positions": Way(
            written(ByPositions), "as Keras's implementation=1: a slice for each position", goal=0.5, most=32
        ),
        "Keras 2, implementation=1": Way(by_keras(1), "a slice for each position", goal=0.9, most=32, needs="tf_keras"),
        "Keras 2, implementation=2": Way(
            by_keras(2), "a dense product with a mask: positions squared", goal=0.9, most=16, needs="tf_keras"
        ),
        "Keras 2, implementation=3": Way(by_keras(3), "a sparse product", goal=0.9, most=32, needs="tf_keras"),
        "flax ConvLocal": Way(by_flax, "XLA's patches and batched product, jitted", goal=0.9, needs="flax"),
        "nn.Conv2d": Way(
            by_convolution, "no rival: it reads one kernel, not one for each position, and caches keep it"
        ),
    },
)
