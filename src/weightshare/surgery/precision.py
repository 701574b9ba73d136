"""The precision in which weights are made."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Weights are made in the precision in which they are stored, whatever autocast says.

    Nothing is entered where autocast is off already: exporters would keep the change of state as a part of the graph,
    and torch cannot save some of these.

    Args:
        kind: Type of the device, such as `cpu`.
    """
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
