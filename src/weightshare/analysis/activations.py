"""Activations of a network's layers, kept while it runs: for those who compare them with recordings from the brain.

with record(model, where="layer*") as kept:
    model(images)
kept["layer1.0"]                     # (images, channels, h, w), in the order in which images were shown
"""

from collections.abc import Callable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from weightshare.errors import SpecError
from weightshare.surgery.watch import Layers, first_tensor, modules_at


class Recording:
    """What `record` returns: a handle that keeps activations until it is removed, and gives them by path."""

    def __init__(self, model: nn.Module, where: Layers, take: Callable[[Tensor], Tensor] | None) -> None:
        self._take = take
        self._kept: dict[str, list[Tensor]] = {}
        self._hooks = []
        for path, module in modules_at(model, where).items():
            self._kept[path] = []
            self._hooks.append(module.register_forward_hook(lambda _, __, out, path=path: self._keep(path, out)))

    @property
    def paths(self) -> tuple[str, ...]:
        """The layers that are recorded, in the order of the model."""
        return tuple(self._kept)

    def __getitem__(self, path: str) -> Tensor:
        """All that a layer gave, batches one after the other, on the CPU.

        Raises:
            SpecError: If the layer is not recorded, has not run, or its batches differ in more than their length.
        """
        if path not in self._kept:
            raise SpecError(f"'{path}' is not recorded. There are: {', '.join(self._kept)}.")
        parts = self._kept[path]
        if not parts:
            raise SpecError(f"'{path}' has not run since it is recorded.")
        if len({part.shape[1:] for part in parts}) > 1:
            raise SpecError(f"'{path}' gave outputs of several sizes: {[tuple(part.shape) for part in parts]}.")
        return torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def clear(self) -> None:
        """Forget what was kept, and go on."""
        for parts in self._kept.values():
            parts.clear()

    def remove(self) -> None:
        """Stop recording; what was kept stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _keep(self, path: str, out: object) -> None:
        first = first_tensor(out)
        if first is None:
            raise SpecError(f"'{path}' gave {type(out).__name__}, need a tensor, or what begins with one.")
        kept = first.detach() if self._take is None else self._take(first.detach())
        self._kept[path].append(kept.to("cpu", copy=True))


def record(model: nn.Module, where: Layers, take: Callable[[Tensor], Tensor] | None = None) -> Recording:
    """Keep what layers of a model give, from now on.

    Args:
        model: Any module; it computes as before.
        where: Globs on the paths of modules (`*` crosses dots), or a type of module.
        take: What to keep of an output, such as `lambda a: a.mean((-2, -1))`; everything by default.

    Returns:
        A handle, to be removed, or used in a `with` block.

    Raises:
        NoMatch: If no module matches.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
        >>> with record(net, "1") as kept:
        ...     for _ in range(2):
        ...         _ = net(torch.ones(7, 3))
        >>> kept["1"].shape
        torch.Size([14, 5])
    """
    return Recording(model, where, take)
