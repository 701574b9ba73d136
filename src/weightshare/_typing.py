"""The axis vocabulary of shape annotations, and the few type aliases that several folders use.

Shapes are written as `jaxtyping` types, `Float[Tensor, "layers *weight"]`, and checked in tests only. An axis of
one name has one meaning everywhere:

| axis | meaning |
|---|---|
| `layers` | the items of a depth group, in the order in which the network has them |
| `readers` | the layers that read one slot |
| `*weight` | the shape of one weight |
| `batch`, `in`, `h`, `w`, `classes` | images, channels, rows, columns, classes |
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

Where = str | type[nn.Module] | Callable[[Any], bool] | Sequence[str] | None
"""Which sites: a glob, a module type, a predicate on `Site`, a list of globs, of which some may take away again what
those before them match (`["blocks", "!*norm*"]`), or `None` for all that fits."""
