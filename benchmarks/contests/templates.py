"""A network whose layers read templates, forward and backward, against torch's parametrizations."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.contest import Contest, Task, Way
import weightshare as ws
from weightshare.depth.templates import TemplateBank

LAYERS, TEMPLATES, BATCH = 8, 2, 8


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS)))


def held(width: int) -> tuple[Tensor, Tensor]:
    """Templates and coefficients."""
    source = torch.Generator().manual_seed(1)
    templates = torch.randn(TEMPLATES, width, width, generator=source) / width**0.5
    return templates, torch.randn(LAYERS, TEMPLATES, generator=source)


def inputs(width: int) -> Tensor:
    return torch.randn(BATCH, width, generator=torch.Generator().manual_seed(2))


def error(width: int, found: tuple[Tensor, Tensor]) -> float:
    """Of the output and the templates' gradient, relative."""
    templates, coefficients = (one.double().requires_grad_() for one in held(width))
    x = inputs(width).double()
    for row in coefficients:
        x = x @ torch.einsum("t,tij->ij", row, templates).T
    x.sum().backward()
    pairs = zip(found, (x.detach(), templates.grad), strict=True)
    return max(float((one.double() - right).abs().max() / right.abs().max()) for one, right in pairs)


def passes(width: int, net: nn.Module, templates: nn.Parameter, cached: bool = False) -> Task:
    x, out = inputs(width), []

    def run() -> None:
        net.zero_grad()
        if cached:
            with parametrize.cached():
                out[:] = [net(x)]
        else:
            out[:] = [net(x)]
        out[0].sum().backward()

    stored = lambda: sum(tensor.numel() for tensor in net.parameters())  # noqa: E731
    return Task(run, lambda: (out[0].detach(), templates.grad), stored)


def ours(width: int) -> Task:
    net = network(width)
    ws.share_(net, ws.Templates(TEMPLATES), "*.weight")
    (bank,) = (module for module in net.modules() if isinstance(module, TemplateBank))
    for tensor, value in zip((bank.templates, bank.coefficients), held(width), strict=True):
        tensor.data.copy_(value)
    return passes(width, net, bank.templates)


class Mixture(nn.Module):
    """What makes one layer's weight of templates that all of them hold."""

    def __init__(self, templates: nn.Parameter, coefficients: Tensor, product: bool) -> None:
        super().__init__()
        self.templates, self.coefficients, self.product = templates, nn.Parameter(coefficients), product

    def forward(self, _: Tensor) -> Tensor:
        if self.product:
            return (self.coefficients @ self.templates.flatten(1)).view(self.templates.shape[1:])
        return (self.coefficients.view(-1, 1, 1) * self.templates).sum(0)


def parametrized(product: bool, cached: bool = False):
    def make(width: int) -> Task:
        net = network(width)
        templates, coefficients = held(width)
        templates = nn.Parameter(templates)
        for layer, row in zip(net, coefficients, strict=True):
            parametrize.register_parametrization(layer, "weight", Mixture(templates, row, product))
            layer.parametrizations.weight.original.requires_grad_(False)
        return passes(width, net, templates, cached)

    return make


CONTEST = Contest(
    title="Weights made of templates",
    text=(
        "8 linear layers of one width that read 2 templates, forward and backward, 8 inputs, float32; size is the"
        " width. The error is of the output and of the templates' gradient, relative, against float64. Numbers "
        "are parameters that the network holds."
    ),
    unit="width",
    sizes=(64, 128, 256, 512, 1024),
    shown=(64, 512, 1024),
    tiny=5,
    error=error,
    off="relative error",
    stored="numbers",
    ways={
        "ws.Templates": Way(ours, ours=True),
        "parametrize, sum": Way(
            parametrized(False), "by the formula: each layer multiplies all templates; keeps its old weight", goal=0.8
        ),
        "parametrize, product": Way(parametrized(True), "a product for each layer; keeps its old weight"),
        "parametrize, product, cached()": Way(parametrized(True, True), "the same within `parametrize.cached()`"),
    },
)
