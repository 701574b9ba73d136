"""Local layers become layers of torch again; the way is a plan first.

Kernels that are equal are copied; kernels that differ become their mean, and the plan says how far they are from it and
what that does to outputs on given inputs.

In the grid: across positions, from nothing shared back to everything shared. Source: none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor, nn

from weightshare._table import render, shape_text
from weightshare.errors import ModelChanged, NoMatch, SpecError
from weightshare.space.layer import LocalLayer
from weightshare.surgery import edit
from weightshare.surgery.compare import error_text, output_error, ratio
from weightshare.surgery.count import count
from weightshare.surgery.sites import unwrapped
from weightshare.surgery.watch import run, watching


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
        output_error: The same for what the layer gives on the inputs, or `None` where it gives nothing on them.
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
        output_error: Of the whole network on the inputs, relative, in evaluation mode; `None` without inputs, or if it
            gives no floating-point numbers on them.
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
        rows: list[list[object]] = []
        for row in self.rows:
            errors = (error_text(error) for error in (row.error, row.output_error))
            rows.append([row.path, shape_text(row.positions), row.stored_before, row.stored_after, *errors])
        rows.append(["whole model", "", self.stored_before, self.stored_after, "", error_text(self.output_error)])
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
        SpecError: If it cannot run on the inputs, or is on the meta device.
    """
    model = unwrapped(model)
    layers = {path: one for path, one in model.named_modules() if isinstance(one, LocalLayer)}
    if not layers:
        raise NoMatch(f"{type(model).__name__} has no local layer to fold.")
    _expect_numbers(layers)
    torch_layers = {path: folded_layer(layer) for path, layer in layers.items()}
    seen: dict[str, tuple[float, float]] = {}
    whole = None
    if inputs is not None:

        def compare(path: str, layer_inputs: tuple[Any, ...], output: Tensor) -> None:
            if not output.numel():
                return
            was = seen.get(path, (0.0, 0.0))
            after = torch_layers[path].to(output.device)(*layer_inputs)
            off = (after - output).double().square().sum().item(), output.double().square().sum().item()
            seen[path] = was[0] + off[0], was[1] + off[1]

        with watching(model, layers, compare):
            before = run(model, inputs)
        if isinstance(model, LocalLayer):
            after = run(torch_layers[""], inputs)
        else:
            with edit.transaction(model) as edits:
                for path in layers:
                    edits.replace(path, torch_layers[path])
                after = run(model, inputs)
                edits.roll_back()
        whole = output_error(before, after)
    rows, counted = [], set()
    for path, layer in layers.items():
        again = {name for name, one in layer._parameters.items() if id(one) in counted}  # stored once, and so it stays
        stored = sum(one.numel() for one in layer.parameters() if id(one) not in counted)
        kept = sum(one.numel() for name, one in torch_layers[path].named_parameters() if name not in again)
        counted |= {*map(id, layer.parameters())}
        out = ratio(*seen[path]) if path in seen else None
        rows.append(FoldRow(path, layer.positions, stored, kept, kernel_error(layer), out))
    return FoldPlan(tuple(rows), whole, count(model).stored)


def fold_(edits: edit.Transaction, tolerance: float) -> nn.Module:
    """Put torch's layers in the place of local ones. Layers that read one weight or bias do so afterwards.

    Args:
        edits: Of the model.
        tolerance: The largest relative error of kernels that is folded without being refused.

    Returns:
        The model, or what takes its place where it is a local layer itself.

    Raises:
        ModelChanged: If kernels of a layer differ by more, or are not finite.
        SpecError: If the tolerance is no number of at least 0, or a layer is on the meta device.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise SpecError(f"tolerance={tolerance!r}: need a number of at least 0; inf folds in any case.")
    layers = {path: one for path, one in edits.model.named_modules() if isinstance(one, LocalLayer)}
    _expect_numbers(layers)
    errors = {path: kernel_error(layer) for path, layer in layers.items()}
    lost = [path for path, error in errors.items() if math.isnan(error)]
    if lost:
        raise ModelChanged(
            f"Kernels of '{lost[0]}' are NaN or infinite at some positions and have no mean: the loss has diverged."
        )
    over = {path: error for path, error in errors.items() if error > tolerance}
    if over:
        listed = ", ".join(f"'{path}': {error:.2g}" for path, error in list(over.items())[:6])
        raise ModelChanged(
            f"Kernels of {len(over)} local layer{'s' * (len(over) > 1)} differ from their mean by more than "
            f"tolerance={tolerance:g} of it ({listed}), so the folded network would compute something else. "
            "plan_fold(model, inputs) says how much; fold(model, tolerance=inf) takes the means all the same. Training "
            "with Sleep(every=1, lattice=Lattice(period=1)) makes all kernels equal; other sleep keeps modules apart."
        )
    made = {path: folded_layer(layer) for path, layer in layers.items()}
    owners: dict[tuple[int, torch.Size], nn.Parameter] = {}
    for path, layer in layers.items():
        for name, now in made[path].named_parameters():
            before = layer._parameters.get(name)
            if before is not None:
                one = before if before.shape == now.shape else owners.setdefault((id(before), now.shape), now)
                setattr(made[path], name, one)
        if path:
            edits.replace(path, made[path])
    return made.get("", edits.model)


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
        error = ratio(float((values - mean).square().mean()), float(mean.square().mean()))
        worst = error if math.isnan(error) else max(worst, error)
    return worst


def _expect_numbers(layers: Mapping[str, LocalLayer]) -> None:
    for path, layer in layers.items():
        if layer.kernels().is_meta:
            raise SpecError(f"'{path}' is on the meta device and has no numbers to fold: load the model first.")


def _mean(kernels: Tensor) -> Tensor:
    return kernels[0].clone() if _equal(kernels) else kernels.double().mean(0).to(kernels.dtype)


def _equal(kernels: Tensor) -> bool:
    first = kernels[:1]
    return bool(((kernels == first) | (kernels.isnan() & first.isnan())).all())
