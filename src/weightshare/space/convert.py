"""Convolutions become locally connected, and back, in any network; each way is a plan first.

*There* (`plan_local`): a copy of the kernel at every position, so that outputs stay what they are. The sizes come from
running the network once on an example. *Back* (`plan_fold`): kernels that are equal are copied; kernels that differ
become their mean, and the plan says how far they are from it and what that does to outputs on given inputs.

In the grid: across positions, from everything shared to nothing shared, and back. Source: none; Pogodin 2021 builds its
networks anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from weightshare._table import render, run_text, shape_text
from weightshare._typing import Where
from weightshare.errors import AlreadyShared, ModelChanged, NoMatch, SpecError
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
from weightshare.surgery.sites import describe, plain, select, sites, unwrapped

LOCAL: dict[type[nn.Module], type[LocallyConnected] | type[LocallyConnectedTranspose]] = {
    nn.Conv1d: LocallyConnected1d,
    nn.Conv2d: LocallyConnected2d,
    nn.Conv3d: LocallyConnected3d,
    nn.ConvTranspose1d: LocallyConnectedTranspose1d,
    nn.ConvTranspose2d: LocallyConnectedTranspose2d,
    nn.ConvTranspose3d: LocallyConnectedTranspose3d,
}
"""For each convolution of torch its local twin. Subclasses compute something else, so they are not in it."""


@dataclass(frozen=True)
class LocalRow:
    """One convolution that becomes local: its path, the size of its input, its positions and numbers."""

    path: str
    weight: tuple[int, ...]
    input_size: tuple[int, ...]
    positions: tuple[int, ...]
    stored_before: int
    stored_after: int


@dataclass(frozen=True)
class LocalPlan:
    """Which convolutions become local, before any does.

    Args:
        rows: In the order in which the network runs them.
        left_out: Path and reason of those that stay.
        where: The pattern, as printed.
        eps: Noise on the copies.
        stored_before: Parameters of the whole model now.
        bytes_each: Of one number.
    """

    rows: tuple[LocalRow, ...]
    left_out: tuple[tuple[str, str], ...]
    where: str
    eps: float
    stored_before: int
    bytes_each: int

    @property
    def stored_after(self) -> int:
        """Parameters of the whole model once the plan is applied."""
        return self.stored_before + sum(row.stored_after - row.stored_before for row in self.rows)

    def apply_(self, model: nn.Module) -> None:
        """Put the local layers in place, all or nothing. An optimizer has to be made afterwards.

        Raises:
            ModelChanged: If a convolution is not there any more, or is another one.
        """
        model = plain(model)
        with edit.transaction(model) as edits:
            for row in self.rows:
                try:
                    conv = model.get_submodule(row.path)
                except AttributeError as error:
                    raise ModelChanged(f"The model has no '{row.path}', which the plan makes local.") from error
                if type(conv) not in LOCAL or tuple(_weight(conv).shape) != row.weight:
                    raise ModelChanged(f"'{row.path}' has changed since the plan: got {conv}. Plan again.")
                edits.replace(row.path, LOCAL[type(conv)].from_conv(conv, row.input_size, self.eps))

    def __str__(self) -> str:
        columns = ("layer", "weight", "input", "positions", "stored before", "after")
        rows: list[list[object]] = [
            [
                row.path,
                *map(shape_text, (row.weight, row.input_size, row.positions)),
                row.stored_before,
                row.stored_after,
            ]
            for row in self.rows
        ]
        rows.append(["whole model", "", "", "", self.stored_before, self.stored_after])
        lines = [
            f"Local layers where {self.where}" + (f", with noise of {self.eps:g}" if self.eps else ""),
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
    model = plain(model)
    if isinstance(keep_first, bool) or not isinstance(keep_first, int) or keep_first < 0:
        raise SpecError(f"keep_first={keep_first!r}: need a whole number of at least 0.")
    found = sites(model)
    chosen = {id(site.tensor) for site in select(found, where)}
    aliased = {id(site.tensor): site.names for site in found}
    convs = {path: one for path, one in model.named_modules() if isinstance(one, (nn.modules.conv._ConvNd))}
    candidates = {path: one for path, one in convs.items() if id(one._parameters.get("weight")) in chosen}
    candidates |= {p: c for p, c in convs.items() if parametrize.is_parametrized(c) and where is None}
    if not candidates:
        raise NoMatch(f"where={describe(where)} matches no convolution of {type(model).__name__}.")
    seen = _sizes_seen(model, example_input, candidates)
    rows, left_out = [], []
    order = sorted(candidates, key=lambda path: list(seen).index(path) if path in seen else len(seen))
    for number, path in enumerate(order):
        conv = candidates[path]
        reason = "kept, by keep_first" if number < keep_first else _unfit(path, conv, seen, aliased)
        if reason:
            if number >= keep_first and where is not None:
                raise (AlreadyShared if "one parameter" in reason else SpecError)(f"'{path}': {reason}.")
            left_out.append((path, reason))
            continue
        rows.append(_row(path, conv, seen[path][0]))
    if not rows:
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left_out[:4])
        raise NoMatch(f"Nothing that where={describe(where)} matches can become local. {reasons}.")
    counts = count(model)
    return LocalPlan(
        tuple(rows), tuple(left_out), describe(where), eps, counts.stored, counts.bytes // max(1, counts.stored)
    )


@dataclass(frozen=True)
class FoldRow:
    """One local layer that becomes a layer of torch.

    Args:
        path: Of the layer.
        positions: Along each axis.
        stored_before: Numbers of all its kernels and biases.
        stored_after: Of the mean.
        error: How far kernels are from their mean: root of the mean square, relative to that of the mean kernel; 0 if
            all are equal to the bit.
        output_error: The same for what the layer gives on the inputs, or `None` without inputs.
    """

    path: str
    positions: tuple[int, ...]
    stored_before: int
    stored_after: int
    error: float
    output_error: float | None


@dataclass(frozen=True)
class FoldPlan:
    """What folding local layers will change, before it is done.

    Args:
        rows: One for each local layer.
        output_error: Of the whole network on the inputs, relative, in evaluation mode; `None` without inputs.
        stored_before: Parameters of the whole model now.
    """

    rows: tuple[FoldRow, ...]
    output_error: float | None
    stored_before: int

    @property
    def stored_after(self) -> int:
        """Parameters of the whole model once it is folded."""
        return self.stored_before + sum(row.stored_after - row.stored_before for row in self.rows)

    @property
    def error(self) -> float:
        """The largest error of a layer's kernels, relative."""
        return max((row.error for row in self.rows), default=0.0)

    def __str__(self) -> str:
        columns = ("layer", "positions", "stored before", "after", "kernels' error", "outputs' error")
        rows: list[list[object]] = [
            [row.path, shape_text(row.positions), row.stored_before, row.stored_after] for row in self.rows
        ]
        for cells, row in zip(rows, self.rows, strict=True):
            cells += [_error_text(row.error), _error_text(row.output_error)]
        rows.append(["whole model", "", self.stored_before, self.stored_after, "", _error_text(self.output_error)])
        return render(columns, rows, numbers=columns[2:])


def plan_fold(model: nn.Module, inputs: Any = None) -> FoldPlan:
    """Say what folding local layers will change, and change nothing.

    Args:
        model: A network with local layers.
        inputs: A tensor, a sequence of positional arguments or a mapping of keyword arguments, on which the change of
            outputs is measured: of each layer on what it sees in the unfolded network, and of the whole.

    Returns:
        The plan; print it.

    Raises:
        NoMatch: If the model has no local layer.
        SpecError: If it cannot run on the inputs.
    """
    model = unwrapped(model)
    layers = {path: one for path, one in model.named_modules() if isinstance(one, LocalLayer)}
    if not layers:
        raise NoMatch(f"{type(model).__name__} has no local layer to fold.")
    torch_layers = {path: folded_layer(layer) for path, layer in layers.items()}
    seen: dict[str, tuple[float, float]] = {}
    whole = None
    if inputs is not None:

        def compare(path: str, layer_inputs: tuple[Any, ...], output: Tensor) -> None:
            was = seen.get(path, (0.0, 0.0))
            after = torch_layers[path].to(output.device)(*layer_inputs)
            off = (after - output).double().square().sum().item(), output.double().square().sum().item()
            seen[path] = was[0] + off[0], was[1] + off[1]

        with _watching(model, layers, compare):
            before = run(model, inputs)
        with edit.transaction(model) as edits:
            for path in layers:
                edits.replace(path, torch_layers[path])
            after = run(model, inputs)
            edits.roll_back()
        whole = _relative(_tensors(before), _tensors(after))
    rows = []
    for path, layer in layers.items():
        stored = sum(p.numel() for p in layer.parameters())
        kept = sum(p.numel() for p in torch_layers[path].parameters())
        out = math.sqrt(seen[path][0] / max(seen[path][1], 1e-300)) if path in seen else None
        rows.append(FoldRow(path, layer.positions, stored, kept, kernel_error(layer), out))
    return FoldPlan(tuple(rows), whole, count(model).stored)


def fold_(edits: edit.Transaction, tolerance: float) -> None:
    """Put torch's layers in the place of local ones.

    Args:
        edits: Of the model.
        tolerance: The largest relative error of kernels that is folded without being refused.

    Raises:
        ModelChanged: If kernels of a layer differ by more.
    """
    layers = {path: one for path, one in edits.model.named_modules() if isinstance(one, LocalLayer)}
    errors = {path: kernel_error(layer) for path, layer in layers.items()}
    over = {path: error for path, error in errors.items() if not error <= tolerance}
    if over:
        listed = ", ".join(f"'{path}': {error:.2g}" for path, error in list(over.items())[:6])
        raise ModelChanged(
            f"Kernels of {len(over)} local layer{'s' * (len(over) > 1)} differ from their mean by more than "
            f"tolerance={tolerance:g} of it ({listed}), so the folded network would compute something else. "
            "plan_fold(model, inputs) says how much; fold(model, tolerance=inf) takes the means all the same."
        )
    for path, layer in layers.items():
        edits.replace(path, folded_layer(layer))


def folded_layer(layer: LocalLayer) -> nn.Module:
    """The layer of torch that has the mean kernel of a local one, or a copy of it if all are equal."""
    with torch.no_grad():
        bias = layer.biases()
        bias = layer.bias if bias is None else _mean(bias)
        made = layer.shared(_mean(layer.kernels()), bias)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    return made.train(layer.training)


def kernel_error(layer: LocalLayer) -> float:
    """How far kernels and biases of a layer are from their mean, relative to it; exactly 0 if all are equal.

    The root of the mean square of the differences over that of the mean; infinite where the mean is 0, and NaN if a
    weight is.
    """
    worst = 0.0
    for tensor in (layer.kernels(), layer.biases()):
        if tensor is None or _equal(tensor):
            continue
        values = tensor.detach().double().flatten(1)
        mean = values.mean(0)
        off, size = float((values - mean).square().mean().sqrt()), float(mean.square().mean().sqrt())
        error = off / size if size else math.inf
        worst = error if math.isnan(error) else max(worst, error)
    return worst


def _mean(kernels: Tensor) -> Tensor:
    return kernels[0].clone() if _equal(kernels) else kernels.double().mean(0).to(kernels.dtype)


def _equal(kernels: Tensor) -> bool:
    return bool((kernels == kernels[:1]).all())


def run(model: nn.Module, inputs: Any) -> Any:
    """The outputs of a model in evaluation mode, without gradients; its training flags are as before afterwards.

    Raises:
        SpecError: If the model cannot run on the inputs.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            return model(**inputs) if isinstance(inputs, Mapping) else model(*_arguments(inputs))
    except Exception as error:  # whatever a network of the user's raises
        raise SpecError(f"{type(model).__name__} cannot run on the example input: {error}") from error
    finally:
        for module in training:
            module.training = True


def _arguments(inputs: Any) -> Sequence[Any]:
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, Sequence):
        return inputs
    raise SpecError(
        f"The example input is a {type(inputs).__name__}: need a tensor, a sequence of positional arguments or a "
        "mapping of keyword arguments."
    )


@contextmanager
def _watching(model: nn.Module, layers: Mapping[str, nn.Module], call: Callable[..., None]) -> Iterator[None]:
    """Call a function with the path, the inputs and the output of layers whenever they run."""
    handles = [
        layer.register_forward_hook(lambda _, inputs, output, path=path: call(path, inputs, output))
        for path, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sizes_seen(
    model: nn.Module, example_input: Any, convs: Mapping[str, nn.Module]
) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The different sizes of input and output of each convolution in one run, in the order in which they run first."""
    seen: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}

    def note(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        axes = len(convs[path].kernel_size)  # type: ignore[arg-type]
        sizes = tuple(inputs[0].shape[-axes:]), tuple(output.shape[-axes:])
        if sizes not in seen.setdefault(path, []):
            seen[path].append(sizes)

    with _watching(model, convs, note):
        run(model, example_input)
    return seen


def _unfit(
    path: str,
    conv: nn.Module,
    seen: Mapping[str, Sequence[tuple[tuple[int, ...], tuple[int, ...]]]],
    names: Mapping[int, Sequence[str]],
) -> str:
    """Why a convolution cannot become local, or nothing."""
    if parametrize.is_parametrized(conv):
        return "its weight is made by a parametrization, which a local layer would lose: take that off first"
    if type(conv) not in LOCAL:
        return f"{type(conv).__name__} is a class of its own, and computes what a local layer does not know of"
    if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks:
        return "it has hooks, which would be lost: remove them first"
    weights = [names.get(id(p), (path,)) for p in conv._parameters.values() if p is not None]
    others = [name for row in weights for name in row if not name.startswith(f"{path}." if path else "")]
    if others:
        return f"its weight is one parameter with '{others[0]}', and each position is to have a kernel of its own"
    if path not in seen:
        return "the example did not run it, so the size of its input is not known"
    if len(seen[path]) > 1:
        sizes = ", ".join(shape_text(size) for size, _ in seen[path])
        return f"it runs at several sizes ({sizes}), and its kernels would be for one"
    return ""


def _row(path: str, conv: nn.Module, sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> LocalRow:
    positions = sizes[0] if isinstance(conv, nn.modules.conv._ConvTransposeNd) else sizes[1]
    weight, bias = _weight(conv), conv.bias
    before = weight.numel() + (bias.numel() if isinstance(bias, Tensor) else 0)
    after = before + (math.prod(positions) - 1) * weight.numel()
    return LocalRow(path, tuple(weight.shape), sizes[0], positions, before, after)


def _weight(conv: nn.Module) -> Tensor:
    weight = conv._parameters["weight"]
    assert weight is not None
    return weight


def _tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of whatever a network returns."""
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _relative(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    off = sum((b.double() - a.double()).square().sum().item() for b, a in zip(before, after, strict=True))
    return math.sqrt(off / max(sum(b.double().square().sum().item() for b in before), 1e-300))


def _error_text(error: float | None) -> str:
    return "" if error is None else "equal" if error == 0 else f"{error:.2e}"
