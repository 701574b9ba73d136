"""Which weights of a parameter are one problem: its granularity, as a table of problems by particles and back.

| granularity | one problem is |
|---|---|
| `layer` | the whole parameter |
| `row` | all weights of one output unit |
| `filter` | the same, of a convolution: `(in, kh, kw)` of one output channel |
| `tap` | all weights of a convolution at one offset of the kernel |
| index tensors | the weights that each of them names, in the flattened parameter; what none names is left alone |

A bias, or any parameter of one dimension, is one problem whatever the granularity.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from weightshare.errors import SpecError
from weightshare.values.choice import stored_by_inputs

Granularity = Literal["layer", "row", "filter", "tap"] | Sequence[Tensor]
NAMES = get_args(get_args(Granularity)[0])


class Particles:
    """A parameter as independent problems, read and written in place.

    Args:
        path: Of the parameter, for messages.
        shape: Of the parameter.
        layer: The module that holds it; says which dimension counts output units.
        granularity: See this module's table.

    Raises:
        SpecError: If the parameter has no such problems, or index tensors overlap or are out of range.
    """

    def __init__(self, path: str, shape: Sequence[int], layer: nn.Module | None, granularity: Granularity) -> None:
        self.shape = tuple(shape)
        self._order: tuple[int, ...] | None = None
        self._index: Tensor | None = None
        self._grouped: tuple[int, ...] | None = None
        numel = torch.Size(self.shape).numel()
        if not isinstance(granularity, str):
            self._index, self.bounds = _indices(path, granularity, numel)
            return
        kernel = self.shape[2:]
        if granularity in ("filter", "tap") and len(self.shape) == 2:
            raise SpecError(f"granularity={granularity!r}: '{path}' {self.shape} has no kernel. Use 'row' or 'layer'.")
        problems = 1
        if granularity == "layer" or len(self.shape) < 2:
            pass
        elif granularity == "tap":
            self._order = (*range(2, len(self.shape)), 0, 1)
            problems = torch.Size(kernel).numel()
        elif isinstance(layer, _ConvTransposeNd):  # stored as (in, out/groups, ...)
            groups = layer.groups
            self._grouped = (groups, self.shape[0] // groups, *self.shape[1:])
            self._order = (0, 2, 1, *range(3, len(self._grouped)))
            problems = groups * self.shape[1]
        elif len(self.shape) == 2 and stored_by_inputs(layer):
            self._order, problems = (1, 0), self.shape[1]
        else:
            problems = self.shape[0]
        self.bounds = torch.arange(problems + 1) * (numel // max(1, problems))

    @property
    def problems(self) -> int:
        return len(self.bounds) - 1

    @property
    def whole(self) -> bool:
        """Whether the parameter is one problem, in its own order."""
        return self._index is None and self.problems == 1

    def read(self, parameter: Tensor) -> Tensor:
        """The weights, flat, problem after problem; a view where the order is the parameter's own."""
        flat = parameter.detach()
        if self._index is not None:
            return flat.reshape(-1)[self._index.to(flat.device)]
        return self._arranged(flat).reshape(-1)

    def split(self, flat: Tensor) -> tuple[list[Tensor], int]:
        """Particles as maps take them: problems of one size as rows of one tensor and 1, else a list of them and 0."""
        sizes = self.bounds.diff().tolist()
        if len(set(sizes)) < 2:
            return [flat.view(len(sizes), *sizes[:1])], 1
        return list(flat.split(sizes)), 0

    @torch.no_grad()
    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Put values, as `read` gave them, where they were read."""
        target = parameter.detach()
        if self._index is not None:
            flat = target.reshape(-1)
            flat[self._index.to(flat.device)] = values.to(flat.dtype)
            if flat.data_ptr() != target.data_ptr():
                target.copy_(flat.view(target.shape))
        else:
            arranged = self._arranged(target)
            arranged.copy_(values.view(arranged.shape))
        # A detached tensor has its own version counter only where torch made it so; say that the weights changed.
        torch.autograd.graph.increment_version(parameter)

    def labels(self, clusters: Tensor) -> Tensor:
        """Labels of the weights, from those of the particles: of the parameter's shape, -1 where no problem is."""
        full = torch.full(self.shape, -1, dtype=torch.int64, device=clusters.device)
        self.write(full, clusters)
        return full

    def _arranged(self, tensor: Tensor) -> Tensor:
        if self._grouped is not None:
            tensor = tensor.unflatten(0, self._grouped[:2])
        return tensor if self._order is None else tensor.permute(self._order)


def expect_granularity(granularity: object) -> None:
    """Refuse what is neither a name nor a list of index tensors."""
    if isinstance(granularity, str):
        if granularity not in NAMES:
            raise SpecError(f"granularity={granularity!r}: need {', '.join(NAMES)}, or a list of index tensors.")
        return
    tensors = isinstance(granularity, Sequence) and all(isinstance(entry, Tensor) for entry in granularity)
    if not tensors or not granularity:
        raise SpecError(f"granularity={granularity!r}: need {', '.join(NAMES)}, or a list of index tensors.")


def _indices(path: str, groups: Sequence[Tensor], numel: int) -> tuple[Tensor, Tensor]:
    for number, group in enumerate(groups):
        if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool or group.ndim != 1:
            raise SpecError(
                f"granularity: index tensor {number} is {tuple(group.shape)} {group.dtype}, need one row of integers."
            )
    index = torch.cat([group.detach().cpu().long() for group in groups])
    if len(index) and not (int(index.min()) >= 0 and int(index.max()) < numel):
        raise SpecError(f"granularity: indices go from {index.min()} to {index.max()}, '{path}' has {numel} weights.")
    if len(index.unique()) != len(index):
        raise SpecError("granularity: a weight is in two groups, or twice in one. Groups have to be disjoint.")
    sizes = torch.tensor([0, *(len(group) for group in groups)])
    return index, sizes.cumsum(0)
