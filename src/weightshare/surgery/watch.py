"""Runs a network once on an example, and listens to its layers meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import NoMatch, SpecError
from weightshare.surgery.sites import plain

Layers = str | type[nn.Module] | Sequence[str]
"""Which modules: globs on their paths, or a type."""


def run(model: nn.Module, inputs: Any, what: str = "the example input") -> Any:
    """The outputs of a model in evaluation mode, without gradients; its training flags are as before afterwards.

    Raises:
        SpecError: If the model cannot run on the inputs, which the message calls `what`.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            return model(**inputs) if isinstance(inputs, Mapping) else model(*arguments(inputs, what))
    except Exception as error:  # whatever a network of the user's raises
        pair = isinstance(inputs, tuple | list) and len(inputs) == 2
        hint = ". If this is a batch of inputs and labels, give the inputs alone." if pair else ""
        text = str(error).removesuffix(".") if pair else error
        kind = "" if isinstance(error, SpecError) else f"{type(error).__name__}: "
        raise SpecError(f"{type(model).__name__} cannot run on {what}: {kind}{text}{hint}") from error
    finally:
        for module in training:
            module.training = True


def arguments(inputs: Any, what: str) -> Sequence[Any]:
    """The positional arguments that an example gives, which is a tensor or a sequence."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, Sequence):
        return inputs
    raise SpecError(
        f"{what} is of type {type(inputs).__name__}: need a tensor, a sequence of positional arguments or a mapping of "
        "keyword arguments."
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


def first_tensor(value: object) -> Tensor | None:
    """A tensor itself, or the first entry of what a layer takes or gives, if that is one."""
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    elif isinstance(value, tuple | list):
        value = value[0] if value else None
    return value if isinstance(value, Tensor) else None


def modules_at(model: nn.Module, where: Layers) -> dict[str, nn.Module]:
    """The modules that globs on their paths match, or those of a type, in the order of the model.

    Raises:
        NoMatch: If a glob or the type matches none.
    """
    modules = {path: module for path, module in plain(model).named_modules() if path}
    if isinstance(where, type):
        found = {path: module for path, module in modules.items() if isinstance(module, where)}
    else:
        globs = [where] if isinstance(where, str) else list(where)
        found = {path: one for path, one in modules.items() if any(fnmatchcase(path, glob) for glob in globs)}
        idle = [glob for glob in globs if not any(fnmatchcase(path, glob) for path in modules)]
        if idle:
            raise NoMatch(f"{idle[0]!r} matches no module. There are: {', '.join(list(modules)[:8])}.")
    if not found:
        raise NoMatch(f"{where!r} matches no module of {type(model).__name__}.")
    return found
