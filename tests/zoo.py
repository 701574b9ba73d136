"""Awkward small modules, each a function that returns a new one with an input for it; sizes are distinct primes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from weightshare.space.local import LocallyConnected1d, LocallyConnected2d


class Case(NamedTuple):
    """A module and an input that it takes."""

    model: nn.Module
    example: Tensor


class Residual(nn.Module):
    """`x + linear2(tanh(linear1(norm(x))))`, the usual block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(self.norm(x))))


def chain(depth: int = 6, width: int = 5, hidden: int = 7) -> Case:
    """Equal blocks between a stem and a head: the plain case."""
    blocks = nn.Sequential(*(Residual(width, hidden) for _ in range(depth)))
    net = nn.Sequential()
    for name, module in (("stem", nn.Linear(3, width)), ("blocks", blocks), ("head", nn.Linear(width, 11))):
        net.add_module(name, module)
    return Case(net, torch.randn(2, 3))


class TiedEmbedding(nn.Module):
    """A language model in small, whose head reads the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 5)
        self.layers = nn.ModuleList([Residual(5, 7) for _ in range(4)])
        self.head = nn.Linear(5, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def tied_embedding() -> Case:
    """An embedding that is one parameter with the head."""
    return Case(TiedEmbedding(), torch.randint(13, (2, 3)))


class UsedTwice(nn.Module):
    """Two names of the module lead to one child, beside layers of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(4)])
        self.once = nn.Linear(5, 5)
        self.again = self.once

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.layers, self.once, self.again):
            x = torch.tanh(layer(x))
        return x


def used_twice() -> Case:
    """One module under two names."""
    return Case(UsedTwice(), torch.randn(2, 5))


def layer_used_twice() -> Case:
    """One layer that stands at two places of a list of layers."""
    layers = [nn.Linear(5, 5) for _ in range(4)]
    return Case(nn.Sequential(*layers, layers[1]), torch.randn(2, 5))


def grouped_convs() -> Case:
    """Convolutions in groups, with rectangular kernels."""
    convs = [nn.Conv2d(15, 15, (3, 7), groups=5, padding="same") for _ in range(4)]
    return Case(nn.Sequential(*convs), torch.randn(2, 15, 11, 13))


def no_bias() -> Case:
    """Layers without a bias."""
    return Case(nn.Sequential(*(nn.Linear(7, 7, bias=False) for _ in range(5))), torch.randn(3, 7))


def buffers() -> Case:
    """Convolutions and batch norms of one width in one flat list: equal sizes, different roles, running statistics."""
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(7, 7, 1), nn.BatchNorm2d(7))]
    return Case(nn.Sequential(*layers), torch.randn(3, 7, 5, 2))


def parametrized() -> Case:
    """Layers with a weight norm of torch's parametrizations: each weight is two parameters."""
    return Case(nn.Sequential(*(weight_norm(nn.Linear(5, 5)) for _ in range(4))), torch.randn(2, 5))


def stages() -> Case:
    """Lists in a list; the stages differ in width and in depth."""

    def stage(width: int, depth: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Sequential(*(Residual(width, 3) for _ in range(depth))), nn.Linear(width, out))

    return Case(nn.Sequential(stage(5, 4, 7), stage(7, 3, 11), stage(11, 2, 13)), torch.randn(2, 5))


class Bottleneck(nn.Module):
    """The first block of a residual stage has a shortcut, the others have none."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if before == width else nn.Conv2d(before, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(torch.relu(self.conv1(x)))


def shortcuts() -> Case:
    """Two stages of residual blocks, the first block of each with a shortcut of its own."""
    widths = [(3, 5), (5, 5), (5, 5), (5, 7), (7, 7), (7, 7)]
    blocks = [Bottleneck(before, width) for before, width in widths]
    return Case(nn.Sequential(nn.Sequential(*blocks[:3]), nn.Sequential(*blocks[3:])), torch.randn(2, 3, 5, 7))


def half() -> Case:
    """Weights in bfloat16."""
    case = chain()
    return Case(case.model.to(torch.bfloat16), case.example.to(torch.bfloat16))


def lazy() -> Case:
    """Layers that have no shape before the first batch."""
    return Case(nn.Sequential(*(nn.LazyLinear(5) for _ in range(4))), torch.randn(2, 5))


class Matrices(nn.Module):
    """A list of bare parameters, without a module around each."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([nn.Parameter(torch.randn(5, 5)) for _ in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return x


def parameter_list() -> Case:
    """A `ParameterList`."""
    return Case(Matrices(), torch.randn(2, 5))


class Recurrent(nn.Module):
    """Recurrent layers, which keep a second list of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(5, 5, batch_first=True) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return x


def recurrent() -> Case:
    """LSTM layers in a list."""
    return Case(Recurrent(), torch.randn(3, 2, 5))


def built() -> Case:
    """Layers that had no shape, after their first batch."""
    case = lazy()
    case.model(case.example)
    return case


class Branches(nn.Module):
    """Two named branches of a dictionary, each a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        branches = {"left": [nn.Linear(5, 5) for _ in range(4)], "right": [Residual(5, 3) for _ in range(5)]}
        self.branches = nn.ModuleDict({name: nn.Sequential(*layers) for name, layers in branches.items()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], -1)


def module_dict() -> Case:
    """A `ModuleDict` of lists."""
    return Case(Branches(), torch.randn(2, 5))


def nested_lists() -> Case:
    """Equal lists in a list: the blocks are the inner lists, two layers each."""
    pairs = [nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.Tanh(), nn.Linear(7, 5))) for _ in range(4)]
    return Case(nn.Sequential(nn.Sequential(*pairs), nn.Linear(5, 3)), torch.randn(2, 5))


def double() -> Case:
    """Weights in float64."""
    case = chain()
    return Case(case.model.double(), case.example.double())


class Rotations(nn.Module):
    """Complex matrices in a list, as in signal processing."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([nn.Parameter(torch.randn(5, 5, dtype=torch.complex64) / 5) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return x


def complex_weights() -> Case:
    """Complex numbers, in weights and input."""
    return Case(Rotations(), torch.randn(2, 5, dtype=torch.complex64))


def frozen() -> Case:
    """The stem and the first layer of every block are frozen: whole roles, so they can still share."""
    case = chain()
    for name, parameter in case.model.named_parameters():
        parameter.requires_grad_("fc1" not in name and "stem" not in name)
    return case


def dropout() -> Case:
    """Random numbers in every forward pass of training."""
    blocks = [nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Dropout(0.3)) for _ in range(4)]
    return Case(nn.Sequential(*blocks, nn.Linear(5, 3)), torch.randn(2, 5))


class Scaled(nn.Module):
    """`x + a · tanh(linear(x)) · b` with a scalar `a` of no dimension and a `b` of one element."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.randn(()))
        self.gate = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(self.linear(x)) * self.gate


def scalars() -> Case:
    """Parameters of no dimension and of one element."""
    return Case(nn.Sequential(*(Scaled(5) for _ in range(4))), torch.randn(2, 5))


class HalfUsed(nn.Module):
    """A layer beside one that the forward pass never reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.used = nn.Linear(width, width)
        self.unused = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.used(x))


def unused() -> Case:
    """Parameters that get no gradient."""
    return Case(nn.Sequential(*(HalfUsed(5) for _ in range(4))), torch.randn(2, 5))


def transposed() -> Case:
    """Weights that are transposed views of what they were made from, so not contiguous."""
    case = chain()
    for module in case.model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.randn(module.in_features, module.out_features).t())
    return case


def channels_last() -> Case:
    """Convolutions whose weights lie in memory with the channels last."""
    net = nn.Sequential(*(nn.Conv2d(5, 5, (3, 7), padding="same") for _ in range(4)))
    return Case(net.to(memory_format=torch.channels_last), torch.randn(2, 5, 7, 11))


def encoder() -> Case:
    """A `TransformerEncoder`. Its layers are copies of one, so their numbers are drawn anew."""
    layer = nn.TransformerEncoderLayer(10, 2, 7, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return Case(net, torch.randn(2, 3, 10))


class Tagged(nn.Parameter):
    """A parameter of a class of its own, as libraries that mark some of theirs have it."""


def subclass() -> Case:
    """Every weight is of a subclass of `nn.Parameter`."""
    case = no_bias()
    for layer in case.model:
        layer.weight = Tagged(layer.weight.detach())
    return case


def local_images() -> Case:
    """Locally connected layers among convolutions and norms."""
    blocks = [
        nn.Sequential(LocallyConnected2d(3, 3, 3, (5, 7), padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        for _ in range(4)
    ]
    return Case(nn.Sequential(*blocks), torch.randn(2, 3, 5, 7))


def local_rows() -> Case:
    """Locally connected layers of one dimension, in groups, with a bias at each position, which is drawn too."""
    layers = [LocallyConnected1d(6, 6, 3, 11, padding=1, groups=3, bias="position") for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.bias)
    return Case(nn.Sequential(*layers, nn.Linear(11, 5)), torch.randn(2, 6, 11))


SHAREABLE: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        chain,
        tied_embedding,
        used_twice,
        layer_used_twice,
        grouped_convs,
        no_bias,
        buffers,
        parametrized,
        stages,
        nested_lists,
        module_dict,
        shortcuts,
        half,
        double,
        parameter_list,
        recurrent,
        built,
        dropout,
        scalars,
        unused,
        transposed,
        channels_last,
        encoder,
        subclass,
    )
}
"""Those that share, train whole and hold real numbers."""

UNUSUAL: dict[str, Callable[[], Case]] = {make.__name__: make for make in (frozen, complex_weights, lazy)}
"""Parts frozen; complex numbers; and one that cannot be shared before its first batch."""

LOCAL: dict[str, Callable[[], Case]] = {make.__name__: make for make in (local_images, local_rows)}
"""Those that have local layers, of this library, so that they fold into another class."""

ZOO: dict[str, Callable[[], Case]] = {**SHAREABLE, **UNUSUAL, **LOCAL}
"""All of them."""
