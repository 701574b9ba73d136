"""Runs a network once on an example, and listens to its layers meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import SpecError


def run(model: nn.Module, inputs: Any) -> Any:
    """The outputs of a model in evaluation mode, without gradients; its training flags are as before afterwards.

    Raises:
        SpecError: If the model cannot run on the inputs.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            return model(**inputs) if isinstance(inputs, Mapping) else model(*_arguments(inputs))
    except Exception as error:  # whatever a network of the user's raises
        raise SpecError(f"{type(model).__name__} cannot run on the example input: {error}") from error
    finally:
        for module in training:
            module.training = True


def _arguments(inputs: Any) -> Sequence[Any]:
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, Sequence):
        return inputs
    raise SpecError(
        f"The example input is a {type(inputs).__name__}: need a tensor, a sequence of positional arguments or a "
        "mapping of keyword arguments."
    )


@contextmanager
def watching(model: nn.Module, layers: Mapping[str, nn.Module], call: Callable[..., None]) -> Iterator[None]:
    """Call a function with the path, the inputs and the output of layers whenever they run."""
    handles = [
        layer.register_forward_hook(
            lambda _, inputs, named, output, path=path: call(path, inputs or tuple(named.values()), output),
            with_kwargs=True,
        )
        for path, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
