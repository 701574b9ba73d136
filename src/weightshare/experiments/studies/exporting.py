"""Exports on digits: for each method what its files take, beside what its model stores, and what compilers make of it.

Small networks that learn for a few steps are enough: sizes do not depend on how well they do. Each is exported shared,
as it was trained, and folded; every ONNX file is run in onnxruntime and compared with the model.

Source: none; the sizes are this library's own promise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
import math
from pathlib import Path
import tempfile
from typing import Any
import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from weightshare._table import render
from weightshare.depth.fuse import mean, scalar_weighted, through
from weightshare.depth.templates import Templates
from weightshare.depth.tie import Tie
from weightshare.depth.transform import LoRA
from weightshare.files.atomic import read_json, write_json
from weightshare.files.checkpoint import save
from weightshare.files.export import to_onnx, to_torch_export
from weightshare.models.convmixer import convmixer
from weightshare.optimizer import param_groups
from weightshare.sharing import Spec
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected2d
from weightshare.space.lowrank import LowRank
from weightshare.space.sleep import Sleep
from weightshare.training.data import load_data
from weightshare.training.environment import environment
from weightshare.values.codebook import Codebook
from weightshare.values.proximal import Proximal
from weightshare.verbs import fold, share_

STEPS = 20
ROOM = 64 * 1024
"""Bytes that a graph may take beside its tensors."""


def mixer() -> nn.Module:
    """Four equal blocks, to share across depth."""
    return convmixer(64, 4, 2, 3, classes=10, in_channels=1)


def local() -> nn.Module:
    """Two local layers, to share across positions."""
    first = LocallyConnected2d(1, 16, 3, 8, padding=1)
    second = LocallyConnected2d(16, 32, 3, 8, stride=2, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def dense() -> nn.Module:
    """Wide linear layers, to share across values."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )


@dataclass(frozen=True)
class Method:
    """A network, what it shares before training, and what drives it to share after every step."""

    network: Callable[[], nn.Module]
    spec: Spec | None = None
    hook: Sleep | Proximal | None = None
    where: str | None = None

    def shared(self, seed: int = 0) -> nn.Module:
        """The network, shared and not yet trained."""
        torch.manual_seed(seed)
        model = self.network()
        if self.spec is not None:
            share_(model, self.spec, self.where)
        return model

    def trained(self, images: Tensor, labels: Tensor, steps: int = STEPS) -> nn.Module:
        """The same after some steps on one batch, in evaluation mode."""
        model = self.shared().train()
        optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.0), lr=3e-3)
        handle = None if self.hook is None else self.hook.attach_(optimizer, model, self.where)
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        if handle is not None:
            handle.now()
            handle.remove()
        return model.eval()


METHODS: dict[str, Method] = {
    "unshared": Method(mixer),
    "tie, mean": Method(mixer, Tie(rate=2, fuse=mean), where="blocks.*wise"),
    "tie, LoRA of each layer": Method(mixer, Tie(rate=4, fuse=mean, own=LoRA(2)), where="blocks.*.pointwise"),
    "tie, trained through": Method(mixer, Tie(rate=2, fuse=through(scalar_weighted)), where="blocks.*.pointwise"),
    "templates": Method(mixer, Templates(3), where="blocks.*.pointwise"),
    "lattice": Method(local, Lattice(period=4)),
    "low rank": Method(local, LowRank(rank=3)),
    "sleep": Method(local, hook=Sleep(every=5)),
    "codebook": Method(dense, Codebook(clusters=16)),
    "proximal": Method(dense, hook=Proximal(strength=10.0, rewind=0.8), where="1"),
}
"""One of each kind of sharing, and none for comparison."""


@dataclass(frozen=True)
class Row:
    """What one model's files take, in bytes.

    Args:
        method: Of `METHODS`.
        form: `shared` or `folded`.
        stored: Tensors as the model stores them, few values packed.
        safetensors: The file of `save`.
        onnx: The file of `to_onnx`.
        onnx_tensors: Its initializers.
        program: The file of `to_torch_export`.
        difference: Largest absolute difference of a logit in onnxruntime.
    """

    method: str
    form: str
    stored: int
    safetensors: int
    onnx: int
    onnx_tensors: int
    program: int
    difference: float

    @property
    def as_small(self) -> bool:
        """Whether the ONNX file is within 5 % and 64 KiB of what is stored."""
        return 0.95 * self.stored <= self.onnx <= 1.05 * self.stored + ROOM


def forms(name: str, steps: int = STEPS) -> tuple[dict[str, nn.Module], Tensor]:
    """A method's network after training, and eight images.

    Args:
        name: In `METHODS`.
        steps: Of training.

    Returns:
        The network `folded`, and `shared` where that is another one.
    """
    data = load_data("digits")
    images, labels = next(iter(data.train.batches([torch.arange(64)])))
    method = METHODS[name]
    model = method.trained(images, labels, steps)
    folded = {"folded": fold(model, math.inf)}
    changes = method.spec is not None or method.network is local
    return ({"shared": model, **folded} if changes else folded), images[:8]


def measure(name: str, form: str, model: nn.Module, images: Tensor, program: bool = True) -> Row:
    """Export a model, and say what its files take.

    Args:
        name: Of the method.
        form: Of the model.
        model: To be exported.
        images: To run it on.
        program: Whether to write it for `torch.export` too; 0 bytes otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        size = save(model, path.with_suffix(".safetensors"))
        made = to_onnx(model, images, path.with_suffix(".onnx"), dynamic_batch=True)
        saved = to_torch_export(model, images, path.with_suffix(".pt2"), dynamic_batch=True) if program else None
    assert made.difference is not None
    numbers = (made.stored_bytes, size, made.file_bytes, made.tensor_bytes, saved.file_bytes if saved else 0)
    return Row(name, form, *numbers, made.difference)


@dataclass(frozen=True)
class Compiled:
    """How often `torch.compile` traces a network, over what happens to one.

    Args:
        method: Of `METHODS`.
        breaks: Graph breaks in its forward pass.
        steps: Graphs after three steps of training, with the method's hook.
        batches: After two further batch sizes.
        evaluation: After evaluation, with and without gradients, at both sizes.
        again: After another step of training.
    """

    method: str
    breaks: int
    steps: int
    batches: int
    evaluation: int
    again: int


def traced(name: str) -> Compiled:
    """Count the graphs that a method's network is compiled into, whole (`fullgraph=True`), at each stage.

    Args:
        name: In `METHODS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's compiler about itself
        return _traced(name)


def _traced(name: str) -> Compiled:
    torch._dynamo.reset()
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    method = METHODS[name]
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    model = method.shared().train()
    breaks = len(torch._dynamo.explain(model)(images).break_reasons)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.0), lr=1e-3)
    handle = None if method.hook is None else method.hook.attach_(optimizer, model, method.where)

    def step(count: int) -> int:
        optimizer.zero_grad()
        cross_entropy(compiled(images[:count]), labels[:count]).backward()
        optimizer.step()
        return len(graphs)

    def evaluate() -> int:
        model.eval()
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                for count in (4, 6):
                    compiled(images[:count])
        model.train()
        return len(graphs)

    try:
        found = [step(4), step(4), step(4)][-1], [step(5), step(6)][-1], evaluate(), step(4)
    finally:
        torch._dynamo.reset()
        if handle is not None:
            handle.remove()
    return Compiled(name, breaks, *found)


def size_table(rows: Sequence[Row]) -> str:
    """Sizes as text."""
    columns = ("method", "file of", "stored", "safetensors", "ONNX", "its tensors", "torch.export", "difference")
    shown = [
        (
            row.method,
            row.form,
            row.stored,
            row.safetensors,
            row.onnx,
            row.onnx_tensors,
            row.program,
            f"{row.difference:.0e}",
        )
        for row in rows
    ]
    return render(columns, shown, numbers=columns[2:])


def compile_table(rows: Sequence[Compiled]) -> str:
    """Counts of graphs as text."""
    columns = ("method", "graph breaks", "3 steps", "+ 2 batch sizes", "+ evaluation", "+ a step")
    shown = [(row.method, row.breaks, row.steps, row.batches, row.evaluation, row.again) for row in rows]
    return render(columns, shown, numbers=columns[1:])


def write(path: str | Path) -> None:
    """Measure all, and keep it as JSON."""
    rows = []
    for name in METHODS:
        models, images = forms(name)
        rows += [measure(name, form, model, images) for form, model in models.items()]
    counts = [traced(name) for name in METHODS]
    write_json(path, {**environment(), "sizes": list(map(asdict, rows)), "compiled": list(map(asdict, counts))})


def read(path: str | Path) -> tuple[list[Row], list[Compiled]]:
    """What `write` kept."""
    found: Mapping[str, Any] = read_json(path)
    return [Row(**row) for row in found["sizes"]], [Compiled(**row) for row in found["compiled"]]


if __name__ == "__main__":
    write(Path("results") / "export.json")
