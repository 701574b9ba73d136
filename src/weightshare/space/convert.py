"""Convolutions become locally connected, in any network; the way is a plan first.

A copy of the kernel goes to every position, so that outputs stay what they are. The sizes come from running the network
once on an example. What becomes local, and how, is a `Kind`: convolutions here, the linear layers of vision
transformers in `weightshare.space.patches`. The way back is `weightshare.space.fold`.

In the grid: across positions, from everything shared to nothing shared. Source: none; Pogodin 2021 builds its networks
anew.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
import math
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from weightshare._table import render, run_text, shape_text
from weightshare._typing import Where
from weightshare.errors import AlreadyShared, ModelChanged, NoMatch, SpecError
from weightshare.hooks import expect_number
from weightshare.space.fold import FoldPlan, FoldRow, fold_, folded_layer, kernel_error, plan_fold
from weightshare.space.layer import LocalLayer
from weightshare.space.local import LocallyConnected, LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.transposed import (
    LocallyConnectedTranspose,
    LocallyConnectedTranspose1d,
    LocallyConnectedTranspose2d,
    LocallyConnectedTranspose3d,
)
from weightshare.surgery import edit
from weightshare.surgery.count import count
from weightshare.surgery.sites import describe, plain, select, sites, where_text
from weightshare.surgery.watch import run, watching

__all__ = [
    "LOCAL",
    "Convolutions",
    "FoldPlan",
    "FoldRow",
    "Kind",
    "LocalPlan",
    "LocalRow",
    "fold_",
    "folded_layer",
    "kernel_error",
    "plan_fold",
    "plan_kind",
    "plan_local",
    "run",
]

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of the input and the output of a layer, along its axes of positions."""

LOCAL: dict[type[nn.Module], type[LocallyConnected] | type[LocallyConnectedTranspose]] = {
    nn.Conv1d: LocallyConnected1d,
    nn.Conv2d: LocallyConnected2d,
    nn.Conv3d: LocallyConnected3d,
    nn.ConvTranspose1d: LocallyConnectedTranspose1d,
    nn.ConvTranspose2d: LocallyConnectedTranspose2d,
    nn.ConvTranspose3d: LocallyConnectedTranspose3d,
}
"""For each convolution of torch its local twin. Subclasses compute something else, so they are not in it."""


class Kind(ABC):
    """Which layers become local, and what becomes of them; abstract."""

    noun: ClassVar[str]
    base: ClassVar[type[nn.Module]]
    """Layers of this class and its subclasses are looked at, so that those that stay are listed with a reason."""
    exact: ClassVar[frozenset[type[nn.Module]]]
    """The classes that become local; subclasses compute something else."""

    @abstractmethod
    def sizes(self, layer: nn.Module, given: Tensor, output: Tensor) -> Sizes:
        """The sizes that a layer runs at."""

    @abstractmethod
    def positions(self, layer: nn.Module, sizes: Sizes) -> tuple[int, ...]:
        """How many positions it has then."""

    @abstractmethod
    def local(self, layer: nn.Module, input_size: tuple[int, ...], eps: float) -> LocalLayer:
        """The local layer that computes the same."""

    def again(self, example_input: Any) -> Any:
        """Another example that layers should run on at the same sizes, or `None`; it need not run."""
        return None

    def held(self, owner: nn.Module) -> str:
        """Why a layer that a module holds cannot become local, or nothing."""
        return ""

    def unfit(self, layer: nn.Module, sizes: Sequence[Sizes]) -> str:
        """Why a layer that runs at these sizes cannot become local, or nothing."""
        if len(sizes) > 1:
            listed = ", ".join(shape_text(size) for size, _ in sizes)
            return f"it runs at several sizes ({listed}), and its kernels would be for one"
        return ""


@dataclass(frozen=True)
class Convolutions(Kind):
    """Convolutions of torch, transposed ones too."""

    noun = "convolution"
    base = nn.modules.conv._ConvNd
    exact = frozenset(LOCAL)

    def sizes(self, layer: nn.Module, given: Tensor, output: Tensor) -> Sizes:
        axes = len(layer.kernel_size)  # type: ignore[arg-type]
        return tuple(given.shape[-axes:]), tuple(output.shape[-axes:])

    def positions(self, layer: nn.Module, sizes: Sizes) -> tuple[int, ...]:
        return sizes[0] if isinstance(layer, nn.modules.conv._ConvTransposeNd) else sizes[1]

    def unfit(self, layer: nn.Module, sizes: Sequence[Sizes]) -> str:
        reason = super().unfit(layer, sizes)
        if not reason and isinstance(layer, nn.modules.conv._ConvTransposeNd):
            given, output = sizes[0]
            rows = zip(given, layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
            least = [(n - 1) * s - 2 * int(p) + d * (k - 1) + 1 for n, s, p, d, k in rows]
            if output != tuple(n + more for n, more in zip(least, layer.output_padding, strict=True)):
                return f"it is asked for an output of {shape_text(output)}: say so by its output_padding instead"
        return reason

    def local(self, layer: nn.Module, input_size: tuple[int, ...], eps: float) -> LocalLayer:
        return LOCAL[type(layer)].from_conv(layer, input_size, eps)


@dataclass(frozen=True)
class LocalRow:
    """One layer that becomes local: its path, the size of its input, its positions and numbers."""

    path: str
    weight: tuple[int, ...]
    input_size: tuple[int, ...]
    positions: tuple[int, ...]
    stored_before: int
    stored_after: int


@dataclass(frozen=True)
class LocalPlan:
    """Which layers become local, before any does.

    Args:
        rows: In the order in which the network runs them.
        left_out: Path and reason of those that stay.
        where: The pattern, as printed.
        eps: Noise on the copies.
        stored_before: Parameters of the whole model now.
        bytes_each: Of one number.
        kind: What becomes local, and how.
    """

    rows: tuple[LocalRow, ...]
    left_out: tuple[tuple[str, str], ...]
    where: str
    eps: float
    stored_before: int
    bytes_each: int
    kind: Kind = field(default_factory=Convolutions)

    @property
    def stored_after(self) -> int:
        """Parameters of the whole model once the plan is applied."""
        return self.stored_before + sum(row.stored_after - row.stored_before for row in self.rows)

    def apply_(self, model: nn.Module) -> None:
        """Put the local layers in place, all or nothing. An optimizer has to be made afterwards.

        Raises:
            ModelChanged: If a layer is not there any more, is another one, or could not be planned for any more: its
                weight is read elsewhere by now, or it has hooks.
        """
        model = plain(model)
        names = _names(model)
        with edit.transaction(model) as edits:
            for row in self.rows:
                try:
                    layer = model.get_submodule(row.path)
                except AttributeError as error:
                    raise ModelChanged(f"The model has no '{row.path}', which the plan makes local.") from error
                if type(layer) not in self.kind.exact or tuple(_weight(layer).shape) != row.weight:
                    raise ModelChanged(f"'{row.path}' has changed since the plan: got {layer}. Plan again.")
                reason = _bound(self.kind, model, row.path, names)
                if reason:
                    raise ModelChanged(f"'{row.path}' has changed since the plan: {reason}. Then plan again.")
                local = self.kind.local(layer, row.input_size, self.eps)
                if local.positions != row.positions:
                    raise ModelChanged(
                        f"'{row.path}' has changed since the plan: it has {shape_text(local.positions)} positions, "
                        f"planned were {shape_text(row.positions)}. Plan again."
                    )
                edits.replace(row.path, local)

    def __str__(self) -> str:
        columns = ("layer", "weight", "input", "positions", "stored before", "after")
        rows: list[list[object]] = []
        for row in self.rows:
            shapes = (shape_text(shape) for shape in (row.weight, row.input_size, row.positions))
            rows.append([row.path, *shapes, row.stored_before, row.stored_after])
        rows.append(["whole model", "", "", "", self.stored_before, self.stored_after])
        lines = [
            f"Local layers {where_text(self.where)}" + (f", with noise of {self.eps:g}" if self.eps else ""),
            "",
            render(columns, rows, numbers=columns[4:]),
            "",
            f"{self.stored_before * self.bytes_each:,} bytes of parameters before, "
            f"{self.stored_after * self.bytes_each:,} after; multiply-accumulates stay.",
        ]
        reasons: dict[str, list[str]] = {}
        for path, reason in self.left_out:
            reasons.setdefault(reason, []).append(path)
        lines += [f"Left out, {len(paths)}: {run_text(paths, 8)}: {reason}." for reason, paths in reasons.items()]
        return "\n".join(lines)


def plan_local(
    model: nn.Module, example_input: Any, where: Where = None, keep_first: int = 0, eps: float = 0.0
) -> LocalPlan:
    """See `weightshare.localize_`, which applies what this plans."""
    return plan_kind(Convolutions(), model, example_input, where, keep_first, eps)


def plan_kind(
    kind: Kind, model: nn.Module, example_input: Any, where: Where = None, keep_first: int = 0, eps: float = 0.0
) -> LocalPlan:
    """What `plan_local` does, for layers of any kind."""
    model = plain(model)
    expect_number("eps", eps)
    if isinstance(keep_first, bool) or not isinstance(keep_first, int) or keep_first < 0:
        raise SpecError(f"keep_first={keep_first!r}: need a whole number of at least 0.")
    chosen = {id(site.tensor) for site in select(sites(model), where)}
    aliased = _names(model)
    layers = {path: one for path, one in model.named_modules() if isinstance(one, kind.base)}
    candidates = {path: one for path, one in layers.items() if any(id(held) in chosen for held in _weights(one))}
    if not candidates:
        local = [path or "itself" for path, one in model.named_modules() if isinstance(one, LocalLayer)]
        already = f" Local already, {len(local)}: {run_text(local, 8)}." if local else ""
        raise NoMatch(f"where={describe(where)} matches no {kind.noun} of {type(model).__name__}.{already}")
    seen = _sizes_seen(kind, model, example_input, candidates)
    rows, left_out = [], []
    order = sorted(candidates, key=lambda path: list(seen).index(path) if path in seen else len(seen))
    for number, path in enumerate(order):
        layer = candidates[path]
        reason = "kept, by keep_first" if number < keep_first else _unfit(kind, model, path, seen, aliased)
        if reason:
            if number >= keep_first and where is not None:
                raise (AlreadyShared if "one parameter" in reason else SpecError)(f"'{path}': {reason}.")
            left_out.append((path, reason))
            continue
        rows.append(_row(kind, path, layer, seen[path][0]))
    if not rows:
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left_out[:4])
        raise NoMatch(f"Nothing that where={describe(where)} matches can become local. {reasons}.")
    counts = count(model)
    each = counts.bytes // max(1, counts.stored)
    return LocalPlan(tuple(rows), tuple(left_out), describe(where), eps, counts.stored, each, kind)


def _sizes_seen(
    kind: Kind, model: nn.Module, example_input: Any, layers: Mapping[str, nn.Module]
) -> dict[str, list[Sizes]]:
    """The different sizes of input and output of each layer in one run, in the order in which they run first."""

    def watched(example: Any) -> dict[str, list[Sizes]]:
        seen: dict[str, list[Sizes]] = {}

        def note(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
            sizes = kind.sizes(layers[path], inputs[0], output)
            if sizes not in seen.setdefault(path, []):
                seen[path].append(sizes)

        with watching(model, layers, note):
            run(model, example)
        return seen

    seen = watched(example_input)
    another = kind.again(example_input)
    if another is not None:
        with suppress(SpecError):
            for path, sizes in watched(another).items():
                at = seen.setdefault(path, [])
                at += [one for one in sizes if one not in at]
    return seen


def _unfit(
    kind: Kind,
    model: nn.Module,
    path: str,
    seen: Mapping[str, Sequence[Sizes]],
    names: Mapping[int, Sequence[str]],
) -> str:
    """Why a layer cannot become local, or nothing."""
    reason = _bound(kind, model, path, names)
    if reason:
        return reason
    if path not in seen:
        return "the example did not run it, so the size of its input is not known"
    return kind.unfit(model.get_submodule(path), seen[path])


def _names(model: nn.Module) -> dict[int, Sequence[str]]:
    """All paths at which each parameter is read, by its id."""
    return {id(site.tensor): site.names for site in sites(model)}


def _bound(kind: Kind, model: nn.Module, path: str, names: Mapping[int, Sequence[str]]) -> str:
    """Why a layer cannot become local whatever its input is, or nothing."""
    layer, owner = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
    if parametrize.is_parametrized(layer):
        return "its weight is made by a parametrization, which a local layer would lose: take that off first"
    if type(layer) not in kind.exact:
        return f"{type(layer).__name__} is a class of its own, and computes what a local layer does not know of"
    if not _weight(layer).is_floating_point():
        return f"its weight is {_weight(layer).dtype}, and local layers are of floating-point numbers"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks, which would be lost: remove them first"
    weights = [names.get(id(p), (path,)) for p in layer._parameters.values() if p is not None]
    # Other names of the layer itself are no other readers: it is registered twice, and replaced at both places.
    others = [name for row in weights for name in row if model.get_submodule(name.rpartition(".")[0]) is not layer]
    if others:
        return f"its weight is one parameter with '{others[0]}', and each position is to have a kernel of its own"
    return kind.held(owner)


def _row(kind: Kind, path: str, layer: nn.Module, sizes: Sizes) -> LocalRow:
    positions = kind.positions(layer, sizes)
    weight, bias = _weight(layer), layer.bias
    before = weight.numel() + (bias.numel() if isinstance(bias, Tensor) else 0)
    after = before + (math.prod(positions) - 1) * weight.numel()
    return LocalRow(path, tuple(weight.shape), sizes[0], positions, before, after)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _weights(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters by which a pattern names a layer: its weight, or all that a parametrization makes it from."""
    if parametrize.is_parametrized(layer):
        return list(layer.parameters())
    weight = layer._parameters.get("weight")
    return [] if weight is None else [weight]
