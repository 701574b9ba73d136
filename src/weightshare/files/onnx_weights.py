"""Weights inside an ONNX graph as small as files store them: codebooks and packed labels, which the graph unpacks.

An initializer of few values becomes `Gather(codebook, labels)`, and labels (these, or those that a model held already)
become a row of bits, as `compact` packs them, in a uint8 initializer. Standard operators unpack them, so every runtime
can: ONNX has integers of 2 and 4 bits, but none of 3, 5 or 6, and few kernels read them. A runtime that folds constants
does this once, when it loads the file.

Eight labels of `b` bits fill `b` bytes, a row. Label `j` lies in the bits `j·b …` of its row, so in at most three bytes
from number `j·b // 8` on: these make one number of 24 bits, which is shifted and masked.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weightshare.decoding import index_bits
from weightshare.files.compact import OVERHEAD, Coded, code, pack

if TYPE_CHECKING:
    import onnx_ir as ir

LABELS = (torch.uint8, torch.int32)
"""The integers that models hold labels in; see `decoding.index_dtype`."""


def compact_(graph: "ir.Graph") -> None:
    """Store every initializer of a graph as small as `weightshare.save` would; what the graph computes stays equal.

    Args:
        graph: Changed in place.
    """
    for value in list(graph.initializers.values()):
        tensor = getattr(value.const_value, "raw", None)  # torch's exporter keeps the tensors of the model there
        if not isinstance(tensor, Tensor) or tensor.nbytes <= OVERHEAD:
            continue
        if tensor.dtype in LABELS:
            _pack_labels(graph, value, tensor)
        elif (found := code(tensor)) is not None:
            _look_up(graph, value, found)


def _pack_labels(graph: "ir.Graph", value: "ir.Value", labels: Tensor) -> None:
    least, most = (int(label) for label in labels.aminmax())
    bits = index_bits(most + 1)
    if least < 0 or bits > min(16, 4 * labels.element_size()):
        return
    unpacking = _Nodes(graph, value)
    _replace(graph, value, unpacking, unpacking.cast(unpacking.labels(labels, bits), value.dtype))


def _look_up(graph: "ir.Graph", value: "ir.Value", found: Coded) -> None:
    made = _Nodes(graph, value)
    codebook = made.stored("codebook", found.codebook)
    _replace(graph, value, made, made("Gather", codebook, made.labels(found.index, found.bits)))


def _replace(graph: "ir.Graph", value: "ir.Value", made: "_Nodes", new: "ir.Value") -> None:
    new.type, new.shape = value.type, value.shape
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    for part in made.initializers:
        graph.register_initializer(part)
    del graph.initializers[value.name]  # pyright: ignore[reportArgumentType]
    first = next(iter(graph), None)
    if first is None:
        graph.extend(made.nodes)
    else:
        graph.insert_before(first, made.nodes)


class _Nodes:
    """Collects the nodes and initializers that make one weight, named after it."""

    def __init__(self, graph: "ir.Graph", value: "ir.Value") -> None:
        self.graph, self.name = graph, str(value.name)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def __call__(self, operator: str, *inputs: "ir.Value", **attributes: int | str) -> "ir.Value":
        import onnx_ir as ir

        named = f"{self.name}.{len(self.nodes)}"
        node = ir.node(operator, inputs, attributes, name=named)
        node.outputs[0].name = named
        self.nodes.append(node)
        return node.outputs[0]

    def stored(self, suffix: str, tensor: Tensor) -> "ir.Value":
        """A new initializer."""
        import onnx_ir as ir
        from onnx_ir.tensor_adapters import TorchTensor

        name = f"{self.name}.{suffix}"
        held = TorchTensor(tensor, name)
        self.initializers.append(
            ir.Value(name=name, type=ir.TensorType(held.dtype), shape=held.shape, const_value=held)
        )
        return self.initializers[-1]

    def constant(self, numbers: Sequence[int], dtype: torch.dtype = torch.int64) -> "ir.Value":
        """A small row of integers."""
        return self.stored(f"constant.{len(self.initializers)}", torch.tensor(numbers, dtype=dtype))

    def cast(self, value: "ir.Value", dtype: "ir.DataType | None") -> "ir.Value":
        return self("Cast", value, to=int(dtype))  # pyright: ignore[reportArgumentType]

    def labels(self, labels: Tensor, bits: int) -> "ir.Value":
        """Labels from packed bits, int32, in their shape."""
        import onnx_ir as ir

        count, rows = labels.numel(), -(-labels.numel() // 8)
        packed = torch.zeros(rows * bits, dtype=torch.uint8)
        row = pack(labels.cpu(), bits)
        packed[: len(row)] = row
        stream = self.cast(self.stored("index", packed.view(rows, bits)), ir.DataType.UINT32)
        starts = [label * bits // 8 for label in range(8)]
        shifts = [label * bits % 8 for label in range(8)]
        word: ir.Value | None = None
        for byte in range(-(-(max(shifts) + bits) // 8)):
            at = self.constant([min(start + byte, bits - 1) for start in starts])  # past the row only zeros are masked
            taken = self("Gather", stream, at, axis=1)
            if byte:
                taken = self("BitShift", taken, self.constant([8 * byte], torch.uint32), direction="LEFT")
            word = taken if word is None else self("BitwiseOr", word, taken)
        assert word is not None
        shifted = self("BitShift", word, self.constant(shifts, torch.uint32), direction="RIGHT")
        masked = self("BitwiseAnd", shifted, self.constant([2**bits - 1], torch.uint32))
        flat = self("Reshape", masked, self.constant([-1]))
        if count % 8:
            flat = self("Slice", flat, self.constant([0]), self.constant([count]))
        return self.cast(self("Reshape", flat, self.constant(list(labels.shape))), ir.DataType.INT32)
