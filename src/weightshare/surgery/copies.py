"""Copies of whole modules."""

import copy

from torch import nn

from weightshare.errors import ModelChanged


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, its ties intact.

    Raises:
        ModelChanged: If torch cannot copy the model.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ModelChanged(
            f"{type(model).__name__} cannot be copied: {error}. Tensors that a forward pass left on a module, as the "
            "old weight_norm does, have to go first; torch.nn.utils.parametrizations has none."
        ) from error
