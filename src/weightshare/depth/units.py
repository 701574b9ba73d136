"""Inner units: what of a block can be put in another order without changing what the block computes.

The hidden units of an MLP have no order of their own: permute the rows of the layer that writes them and the columns of
the layer that reads them, and the block computes what it did. So it is with whole attention heads, and with the inner
channels of a residual block. The residual stream is shared by all blocks, so its order is never touched.

A pattern names the layers that write and read the units, and everything else is found: how often the units occur in a
row (query, key and value stacked in one weight), and what lies between and has one number for each unit (a norm). No
pattern is believed: a copy of the block with random numbers is run before and after a random permutation, and its
outputs must agree. So a block that only looks like a known one is left alone.

Source: Ainsworth 2022 ("Git Re-Basin"), section 2, for the symmetry.
"""

from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass
from itertools import product

from jaxtyping import Float, Int
import torch
from torch import Tensor, nn

from weightshare.surgery.watch import first_tensor

SAME = 1e-8
"""Outputs in float64 that differ by less, relative to their norm, are equal to rounding."""


@dataclass(frozen=True)
class Pattern:
    """Layers of a block that write and read its inner units, by their paths from a module of the block.

    Args:
        writers: Layers, or single parameters, whose rows are the units.
        readers: Layers whose columns are the units.
        heads: Attribute that holds the number of heads, where the units are whole heads; empty where each row is one.

    Example:
        >>> Pattern(("w1", "w3"), ("w2",)).name
        'w1+w3 → w2'
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    heads: str = ""

    @property
    def name(self) -> str:
        return f"{'+'.join(self.writers)} → {'+'.join(self.readers)}"


PATTERNS = (
    Pattern(("fc1",), ("fc2",)),  # timm: ViT, DeiT, ConvNeXt, MLP-Mixer; transformers: ViT, DeiT, CLIP
    Pattern(("fc1_g", "fc1_x"), ("fc2",)),  # timm: SwiGLU
    Pattern(("linear1",), ("linear2",)),  # torch: TransformerEncoderLayer
    Pattern(("lin1",), ("lin2",)),  # transformers: DistilBERT
    Pattern(("intermediate.dense",), ("output.dense",)),  # transformers: BERT, RoBERTa, ViT before version 5
    Pattern(("gate_proj", "up_proj"), ("down_proj",)),  # transformers: LLaMA
    Pattern(("conv1",), ("conv2",)),  # ResNet: basic blocks, and the first half of bottlenecks
    Pattern(("conv2",), ("conv3",)),  # ResNet: the second half
    Pattern(("qkv",), ("proj",), heads="num_heads"),  # timm
    Pattern(("in_proj_weight", "in_proj_bias"), ("out_proj",), heads="num_heads"),  # torch: MultiheadAttention
    Pattern(("self.query", "self.key", "self.value"), ("output.dense",), heads="self.num_attention_heads"),  # BERT
    Pattern(  # transformers: ViT before version 5
        *(("attention.query", "attention.key", "attention.value"), ("output.dense",)),
        heads="attention.num_attention_heads",
    ),
    Pattern(("q_proj", "k_proj", "v_proj"), ("o_proj",), heads="num_attention_heads"),  # transformers: ViT, DeiT
    Pattern(("q_proj", "k_proj", "v_proj"), ("out_proj",), heads="num_heads"),  # transformers: CLIP
    Pattern(("q_lin", "k_lin", "v_lin"), ("out_lin",), heads="n_heads"),  # transformers: DistilBERT
)
"""What is known by name. A pattern that fits nothing costs nothing, so others may be put beside these."""


@dataclass(frozen=True)
class Span:
    """One axis of one tensor of a block that the units lie along, `runs` times one after the other, `size` rows each.

    Args:
        path: Of the parameter or buffer, from the block.
        axis: Which axis.
        runs: How often all units occur along it: 3 where query, key and value are stacked.
        size: Rows of one unit: 1, or the width of a head.
    """

    path: str
    axis: int
    runs: int
    size: int

    def rows(self, tensor: Tensor) -> Float[Tensor, "units numbers"]:
        """What a tensor holds for each unit, in double precision."""
        wide = tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)
        return self._apart(wide).movedim(self.axis + 1, 0).flatten(1)

    def permuted(self, tensor: Tensor, order: Int[Tensor, " units"]) -> Tensor:
        """A new tensor whose unit `k` is the unit `order[k]` of the one given."""
        picked = self._apart(tensor.detach()).index_select(self.axis + 1, order.to(tensor.device))
        return picked.flatten(self.axis, self.axis + 2)

    def _apart(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(self.axis, (self.runs, -1, self.size))


@dataclass(frozen=True)
class Units:
    """The units that one pattern finds in a block.

    Args:
        name: Where, and which layers write and read them.
        count: How many.
        heads: Path of the attribute that holds their number, if they are attention heads.
        spans: Every axis that they lie along.
    """

    name: str
    count: int
    heads: str
    spans: tuple[Span, ...]


def find_units(block: nn.Module, patterns: Sequence[Pattern] = PATTERNS) -> tuple[list[Units], dict[str, str]]:
    """Find the inner units of a block, and try each on a copy.

    Args:
        block: Any module. It is neither run nor changed: a copy in float64 on the CPU is, one module of it at a time.
        patterns: What to look for, in every module of the block.

    Returns:
        The units that can be permuted, and for each pattern that fits by name but not otherwise the reason.

    Example:
        >>> class MLP(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = nn.Linear(2, 5), nn.Linear(5, 3)
        ...     def forward(self, x):
        ...         return self.fc2(self.fc1(x).relu())
        >>> find_units(MLP())
        ([Units(name='fc1 → fc2', count=5, heads='', spans=(Span(path='fc1.weight', axis=0, runs=1, size=1),
        Span(path='fc1.bias', axis=0, runs=1, size=1), Span(path='fc2.weight', axis=1, runs=1, size=1)))], {})
    """
    found: list[Units] = []
    refused: dict[str, str] = {}
    for (at, holder), pattern in product(block.named_modules(), patterns):
        units = _fitting(holder, pattern)
        if units is None:
            continue
        prefix = f"{at}." if at else ""
        name = f"{prefix}{pattern.name}"
        reason = units if isinstance(units, str) else asymmetry(holder, units)
        if isinstance(units, str) or reason:
            refused[name] = reason
        else:
            spans = tuple(Span(prefix + span.path, span.axis, span.runs, span.size) for span in units.spans)
            if not {(span.path, span.axis) for span in spans} & {(s.path, s.axis) for u in found for s in u.spans}:
                found.append(Units(name, units.count, prefix + units.heads if units.heads else "", spans))
    return found, refused


def tensor_at(block: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a path."""
    parent, _, name = path.rpartition(".")
    return getattr(block.get_submodule(parent), name)


def asymmetry(holder: nn.Module, units: Units) -> str:
    """Why a module tells the units apart, or nothing: it is tried on a copy with random numbers, in float64."""
    if any(tensor_at(holder, span.path).is_meta for span in units.spans):
        return "it is on the meta device"
    try:
        twin = copy.deepcopy(holder).to("cpu").double().eval()
    except RuntimeError as error:  # of tensors that a forward pass left on a module
        return f"it cannot be copied to be tried: {error}"
    for module in twin.modules():
        module._forward_hooks.clear()  # a user's own, which may count or write
        module._forward_pre_hooks.clear()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        # Numbers as they were may hide what tells units apart: norms that are all 1, a reader that starts at 0.
        for weight in twin.parameters():
            if weight.is_floating_point():
                spread = max(1, weight[0].numel()) ** -0.5 if weight.ndim > 1 else 1.0
                weight.copy_(torch.randn(weight.shape, generator=random, dtype=weight.dtype) * spread)
        for buffer in twin.buffers():
            if buffer.is_floating_point():  # positive, since some are variances
                buffer.copy_(torch.rand(buffer.shape, generator=random, dtype=buffer.dtype) + 0.5)
        shuffled = torch.randperm(units.count, generator=random)
        order = torch.empty_like(shuffled)
        order[shuffled] = shuffled.roll(1)  # one random cycle: no unit stays where it is
        for arguments in _guesses(twin, units, random):
            before = _first_output(twin, arguments)
            if before is None:
                continue
            for span in units.spans:
                tensor = tensor_at(twin, span.path)
                tensor.copy_(span.permuted(tensor, order))
            after = _first_output(twin, arguments)
            assert after is not None
            if (after - before).norm() <= SAME * before.norm():
                return ""
            return "its output changes with their order, so something in it tells them apart"
    return "it does not run on a tensor of random numbers alone, so their symmetry cannot be tried"


def _fitting(holder: nn.Module, pattern: Pattern) -> Units | str | None:
    """The units by name and shape; the reason if the shapes do not fit; nothing if the names do not."""
    writers = [_tensors(holder, path) for path in pattern.writers]
    readers = [_tensors(holder, path) for path in pattern.readers]
    if not all(writers) or not all(readers):
        return None
    columns = [path for tensors in readers for path, tensor in tensors.items() if tensor.ndim > 1]
    rows = {path: tensor for tensors in writers for path, tensor in tensors.items()}
    if not columns:
        return f"'{pattern.readers[0]}' has no columns"
    inner = tensor_at(holder, columns[0]).shape[1]
    heads = attribute_at(holder, pattern.heads) if pattern.heads else inner
    if not isinstance(heads, int) or heads < 1 or inner % heads:
        return f"it has {inner} inner rows and {heads!r} heads"
    if any(tensor.ndim == 0 or tensor.shape[0] % inner or not tensor.shape[0] for tensor in rows.values()) or any(
        tensor_at(holder, path).shape[1] != inner for path in columns
    ):
        return f"the rows that are written are not the {inner} columns that are read"
    if heads == 1:
        return "it has one unit"
    width = inner // heads
    spans = [Span(path, 0, tensor.shape[0] // inner, width) for path, tensor in rows.items()]
    spans += [Span(path, tensor.shape.index(inner), 1, width) for path, tensor in _between(holder, pattern, inner)]
    spans += [Span(path, 1, 1, width) for path in columns]
    return Units(pattern.name, heads, pattern.heads, tuple(spans))


def _tensors(holder: nn.Module, path: str) -> dict[str, Tensor]:
    """The parameters of a layer, or one parameter, by path; none if there is no such thing, or it is no plain one."""
    parent, _, name = path.rpartition(".")
    try:
        owner = holder.get_submodule(parent)
    except AttributeError:
        return {}
    if name in owner._parameters:
        tensor = owner._parameters[name]
        return {} if tensor is None else {path: tensor}
    layer = owner._modules.get(name)
    if layer is None or layer._modules:  # a layer with parts of its own, such as a parametrization, is no plain one
        return {}
    return {f"{path}.{own}": tensor for own, tensor in layer._parameters.items() if tensor is not None}


def _between(holder: nn.Module, pattern: Pattern, inner: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors with one number for each inner row, of layers that are registered between writers and readers."""
    paths = [path for path, _ in holder.named_modules()]
    first = max((paths.index(path) for path in pattern.writers if path in paths), default=-1)
    last = min(paths.index(path) for path in pattern.readers)
    named = {**dict(holder.named_parameters()), **dict(holder.named_buffers())}
    for path, tensor in named.items():
        parent = path.rpartition(".")[0]
        if first >= 0 and first < paths.index(parent) < last and tensor.numel() == inner and inner in tensor.shape:
            yield path, tensor


def attribute_at(holder: nn.Module, path: str) -> object:
    """An attribute of a module or of one inside it, or `None`."""
    parent, _, name = path.rpartition(".")
    try:
        return getattr(holder.get_submodule(parent), name, None)
    except AttributeError:
        return None


def _guesses(twin: nn.Module, units: Units, random: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Arguments that the module may take: a batch of sequences, rows or images of its width, once or several times."""
    writer = tensor_at(twin, units.spans[0].path)
    first = next((weight for weight in twin.parameters() if weight.ndim > 1), writer)
    for weight in (writer, first):
        groups = {id(m._parameters.get("weight")): getattr(m, "groups", 1) for m in twin.modules()}
        width = weight.shape[1] * groups.get(id(weight), 1)
        sizes = [(2, 5, width), (3, width)] if weight.ndim == 2 else [(2, width, *[9] * (weight.ndim - 2))]
        for size, times in product(sizes, (1, 2, 3)):
            yield (torch.randn(size, generator=random, dtype=torch.float64),) * times


def _first_output(twin: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor | None:
    """What the module computes, or nothing if it cannot or if that is not finite."""
    try:
        out = twin(*arguments)
    except Exception:  # whatever a network of the user's raises when it is given something else than it expects
        return None
    first = first_tensor(out)
    return first if first is not None and bool(first.isfinite().all()) else None
