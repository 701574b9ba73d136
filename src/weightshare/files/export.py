"""Exporting models: ONNX files for any runtime, and torch's own exported programs; each shared weight stored once.

A network is exported in evaluation mode, as a copy, so the model itself is not touched. Ties are one tensor in the
file; what generates weights (banks, transforms, codebooks) is stored as the model stores it, and its arithmetic becomes
a part of the graph. Fold a model first where the file should hold plain dense weights.

What is written is run before it gets its name, and compared with the model: a file that computes something else is
never left behind.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any
import warnings

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from weightshare.errors import FileError
from weightshare.files.atomic import replacing
from weightshare.files.checkpoint import stored
from weightshare.space.composed import TABLE
from weightshare.surgery.copies import copied
from weightshare.surgery.sites import unwrapped
from weightshare.surgery.watch import arguments, run
from weightshare.verbs import refuse_untied

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_BYTES = 2**31 - 2**20
"""What one ONNX file can hold: protobuf has signed lengths of 32 bits. Some room for the graph."""
PACKAGES = ("onnx", "onnxscript", "onnx_ir")
OF_TORCH_ITSELF = (
    # A recurrent layer keeps its weights in a second list, which torch's tracer fills and then complains of; a tensor
    # that a network itself keeps from its forward pass is another matter, and still told.
    r"The tensor attributes? (self\.\S*\b_flat_weights\[\d+\],? )+(was|were) assigned during export",
    # Said of each weight that is not contiguous. All of its memory and its strides are written, and what is saved here
    # is on the CPU.
    r"No complete tensor found in the group! Returning the first one",
)
"""What torch's exporters warn of, shared or not, though the user can do nothing and the file computes the same."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        path: Of the file.
        file_bytes: Its size.
        tensor_bytes: Of these the tensors.
        stored_bytes: What `weightshare.save` stores for the same model, its header not counted: each tensor once, few
            values as codebook and packed labels. Includes what no forward pass reads, which exports leave out.
        difference: Largest absolute difference of an output from the model's, on the example; `None` if not run.
        runtime: What ran the file, or why nothing did.
    """

    path: Path
    file_bytes: int
    tensor_bytes: int
    stored_bytes: int
    difference: float | None
    runtime: str

    def __str__(self) -> str:
        sizes = (
            f"{self.file_bytes:,} bytes, {self.tensor_bytes:,} of them tensors; the model stores {self.stored_bytes:,}"
        )
        told = "" if self.difference is None else f": largest difference of an output {self.difference:.1e}"
        return f"{self.path}: {sizes}.\n{self.runtime}{told}."


def to_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    *,
    dynamic_batch: bool = False,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a model as an ONNX file that is as small as what the model stores.

    There is one initializer for each stored tensor, named as the state dict names its first path: no copies for ties,
    none folded or transposed. A bank of templates is stored once, and its product with coefficients is in the graph.
    Weights of few values are a codebook and packed labels, as `save` stores them, which the graph unpacks.

    Args:
        model: Shared or folded, on any device; not changed.
        example: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        path: Name of the file; replaced in one step once the new one is whole and computes the same.
        dynamic_batch: Whether the first dimension of every input may have any length.
        check: Whether to run the file in onnxruntime, if that is installed; the result says whether it was.
        tolerance: How far outputs may differ, relative to the largest number of each, at least to 1.

    Returns:
        Sizes, and the largest difference.

    Raises:
        SpecError: If the model cannot run on the example.
        ModelChanged: If ties have come undone; call `retie_` first.
        FileError: If onnx or onnxscript are missing, the model cannot be traced or holds what ONNX has not, onnxruntime
            cannot run the file or computes something else, the file would exceed 2 GiB, or the disk refuses. What was
            at `path` is then as it was.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))
        >>> _ = share_(net, Tie(rate=4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = to_onnx(net, torch.randn(2, 5), f"{folder}/net.onnx")
        >>> made.tensor_bytes, made.stored_bytes
        (120, 120)
    """
    _expect_installed()
    source = _Source(model, example)
    program = source.traced(dynamic_batch)
    graph_model = _converted(program, source)
    with replacing(path) as temporary:
        tensor_bytes = _write_graph(graph_model, source, temporary)
        difference, runtime = _checked(temporary, source, tolerance) if check else (None, "Not run: check=False")
    return source.result(path, tensor_bytes, difference, runtime)


def to_torch_export(
    model: nn.Module, example: Any, path: str | Path, *, dynamic_batch: bool = False, tolerance: float = 1e-4
) -> Exported:
    """Write a model as a program of `torch.export` (`.pt2`), which runs without this library and the model's own code.

    Ties are one tensor in the file and in the loaded program's state. Labels of codebooks take what they take in memory
    (1 or 4 bytes each), and folded weights of few values are dense: only `save` and `to_onnx` pack these.

    The file is an archive of torch's own, parts of which are pickled: load such files only from whom you trust.

    Args:
        model: As for `to_onnx`.
        example: As for `to_onnx`; it is not stored.
        path: As for `to_onnx`. Load it with `torch.export.load(path).module()`.
        dynamic_batch: As for `to_onnx`.
        tolerance: As for `to_onnx`; the file is always loaded and run.

    Returns:
        As for `to_onnx`.

    Raises:
        SharingError: As `to_onnx` does; nothing has to be installed.
    """
    source = _Source(model, example)
    program = source.traced(dynamic_batch)
    program.example_inputs = None  # they are the user's data, and would be pickled
    with replacing(path) as temporary:
        try:
            with _quiet(), open(temporary, "wb") as file:
                torch.export.save(program, file)
            with _quiet(), open(temporary, "rb") as file:
                loaded = torch.export.load(file)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise FileError(f"torch cannot save the exported {source.name}: {_first_line(error)}") from error
        with torch.no_grad():
            found = pytree.tree_leaves(loaded.module()(*source.arguments, **source.keywords))
        difference = _difference(found, source, tolerance, "torch")
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in loaded.state_dict.values()}
    return source.result(path, sum(held.values()), difference, f"torch {torch.__version__}")


class _Source:
    """A copy of a model that can be exported, on the CPU, with its example and the outputs that it has there."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        model = unwrapped(model)
        self.name = type(model).__name__
        _expect_numbers(model)
        refuse_untied(model)
        self.model = copied(model).cpu().eval()
        moved = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), example)
        self.keywords = dict(moved) if isinstance(moved, Mapping) else {}
        self.arguments = () if self.keywords else tuple(arguments(moved, "the example input"))
        self.outputs = pytree.tree_leaves(run(self.model, moved))
        self.stored, self.coded, self.aliases = stored(self.model)

    def traced(self, dynamic_batch: bool) -> ExportedProgram:
        """The exported program, its ties intact, without operators of this library."""
        arguments, keywords = self.arguments, self.keywords
        shapes = None
        if dynamic_batch:
            # Torch takes a length of 1 for a constant, so such an example is doubled.
            arguments, keywords = pytree.tree_map_only(Tensor, _two_at_least, (arguments, keywords))
            batch = Dim("batch")
            shapes = pytree.tree_map(
                lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, (arguments, keywords)
            )
            shapes = shapes[1] if keywords else shapes[0]
        try:
            with _quiet(), torch.no_grad():
                program = torch.export.export(self.model, arguments, keywords, dynamic_shapes=shapes, strict=False)
                if any(node.target in TABLE for node in program.graph.nodes):
                    program = program.run_decompositions(TABLE)
        except Exception as error:  # whatever torch or the network raises
            raise FileError(
                f"torch.export cannot trace {self.name}: {_first_line(error)} Control flow that depends on numbers, or "
                "sizes that depend on them, cannot be exported; torch.cond can. With dynamic_batch=True the batch may "
                "stand in no other size."
            ) from error
        return program

    def result(self, path: str | Path, tensor_bytes: int, difference: float | None, runtime: str) -> Exported:
        """What is told to the caller."""
        stored_bytes = sum(tensor.nbytes for tensor in self.stored.values())
        stored_bytes += sum(sum(one.sizes[:2]) for one in self.coded.values())
        return Exported(Path(path), Path(path).stat().st_size, tensor_bytes, stored_bytes, difference, runtime)


def _two_at_least(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == 1 else tensor


def _expect_numbers(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise FileError(f"Cannot export '{name}': it has no shape yet. Run the model on a batch first.")
        if tensor.is_meta:
            raise FileError(f"Cannot export '{name}': it is on the meta device, without numbers. Load them first.")


def _expect_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise FileError(
            f"Exporting to ONNX needs {' and '.join(missing)}. Run: pip install 'weightshare[export]'. "
            "to_torch_export needs nothing."
        )


def _converted(program: ExportedProgram, source: _Source) -> "ir.Model":
    """The graph of standard operators."""
    try:
        with _quiet():
            made = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except Exception as error:  # of any class, with pages of advice
        causes = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)  # pyright: ignore[reportArgumentType]
        raise FileError(
            f"ONNX cannot express {source.name}: {_first_line(causes[-1])} Replace what it names, or use "
            "to_torch_export."
        ) from error
    assert made is not None
    return made.model


def _write_graph(model: "ir.Model", source: _Source, path: Path) -> int:
    """Make a graph small and write it; the bytes of its initializers."""
    from onnx_ir import save
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

    from weightshare.files.onnx_weights import compact_

    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)  # stack traces, larger than a small network
    outputs = set(map(id, model.graph.outputs))
    for value in (value for node in model.graph for value in node.outputs if id(value) not in outputs):
        value.shape = value.type = None  # runtimes infer them, and they take as much as the nodes
    for name, value in list(model.graph.initializers.items()):
        value.name = source.aliases.get(name, name)
    compact_(model.graph)
    tensor_bytes = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if tensor_bytes > MOST_BYTES:
        raise FileError(
            f"{source.name} has {tensor_bytes:,} bytes of tensors, one ONNX file holds {MOST_BYTES:,}. Use "
            "to_torch_export, or share more."
        )
    save(model, path)
    return tensor_bytes


def _checked(path: Path, source: _Source, tolerance: float) -> tuple[float | None, str]:
    """Run a file in onnxruntime: the largest difference, and what ran it."""
    from importlib.util import find_spec

    if find_spec("onnxruntime") is None:
        return None, "Not run: onnxruntime is not installed (pip install 'weightshare[export]')"
    import onnxruntime

    given = [leaf for leaf in pytree.tree_leaves((source.arguments, source.keywords)) if isinstance(leaf, Tensor)]
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        found = session.run(None, dict(zip(names, (tensor.numpy() for tensor in given), strict=True)))
    except Exception as error:  # its errors have no common class
        raise FileError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported {source.name}: {_first_line(error)} "
            "check=False writes the file for another runtime."
        ) from error
    outputs = [torch.as_tensor(one) for one in found]
    return _difference(outputs, source, tolerance, "onnxruntime"), f"onnxruntime {onnxruntime.__version__}"


def _difference(found: Sequence[Any], source: _Source, tolerance: float, runtime: str) -> float:
    """The largest difference of an output, refused where it is too large."""
    pairs = [(got, wanted) for got, wanted in zip(found, source.outputs, strict=True) if isinstance(wanted, Tensor)]
    worst = 0.0
    for got, wanted in pairs:
        if got.shape != wanted.shape:
            raise FileError(f"The exported {source.name} gives {tuple(got.shape)}, the model {tuple(wanted.shape)}.")
        apart = (_wide(got) - _wide(wanted)).abs()
        largest = float(apart.max()) if apart.numel() else 0.0
        room = tolerance * max(1.0, float(_wide(wanted).abs().max()) if wanted.numel() else 0.0)
        if not largest <= room:
            raise FileError(
                f"The exported {source.name} computes something else in {runtime}: an output differs by {largest:.3g}, "
                f"more than {room:.3g}. Nothing was written; raise the tolerance if that is near enough."
            )
        worst = max(worst, largest)
    return worst


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters print and warn of about themselves."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        for message in OF_TORCH_ITSELF:
            warnings.filterwarnings("ignore", message, UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first if first.endswith(".") else f"{first}."
