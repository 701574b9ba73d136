"""Edits: the only code of the library that changes a user's module, all or nothing.

Every edit goes through a `transaction`, which restores the model bit for bit when anything inside it raises.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from weightshare.errors import ModelChanged, ShapeMismatch, SpecError
from weightshare.surgery import derived
from weightshare.surgery.compare import same_bits
from weightshare.surgery.parametrized import foreign_parametrizations, own_class, parametrization
from weightshare.surgery.shards import held_by_wrapper


class Transaction:
    """Edits of one module, each remembered so that it can be undone. Made by `transaction`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._undo: list[Callable[[], object]] = []
        self._wrapped = next(filter(None, map(held_by_wrapper, model.modules())), None)

    def within(self, at: str) -> "Transaction":
        """Edits of the module at a path, undone with these."""
        part = Transaction(self.model.get_submodule(at))
        part._undo = self._undo
        return part

    def put(self, path: str, tensor: nn.Parameter) -> None:
        """Register a parameter under an existing path, in place of the one that is there.

        Args:
            path: Full path of a parameter.
            tensor: The parameter to read there from now on; the object itself, so that other paths may hold it too.
        """
        owner, name, before = self._held(path)
        self._undo.append(lambda: setattr(owner, name, before))
        # setattr, not `_parameters`: recurrent layers keep a second list of their weights in step through it.
        setattr(owner, name, tensor)

    def replace(self, path: str, module: nn.Module) -> None:
        """Put a module at a path, and wherever else the one that is there was registered.

        Args:
            path: Of a module that is not the model itself.
            module: What is there from now on.
        """
        self._refuse_wrapped()
        if not path:
            raise ModelChanged(f"{type(self.model).__name__} is the layer itself: nothing holds it. Wrap it first.")
        before = self.model.get_submodule(path)
        for owner in list(self.model.modules()):  # before the first edit: the new module may hold the old one
            for name, child in owner._modules.items():
                if child is before:
                    self._undo.append(lambda owner=owner, name=name: setattr(owner, name, before))
                    setattr(owner, name, module)

    def decode(self, path: str, decoder: nn.Module, stored: nn.Parameter) -> None:
        """Make a path read `decoder(stored)`, by torch's own parametrization, in place of the parameter that is there.

        Args:
            path: Full path of a parameter, of a module without other parametrizations than these.
            decoder: Gives a tensor of the weight's shape and dtype; needs a `right_inverse`.
            stored: The parameter that is trained instead.
        """
        owner, name, before = self._held(path)
        if foreign_parametrizations(owner):
            raise ModelChanged(f"'{path}' belongs to a module that is parametrized already: take that off first.")
        place = list(owner._parameters).index(name)
        self._remember_contents(owner)
        if parametrize.is_parametrized(owner):
            own_class(owner)  # torch adds a property to it
        # Torch writes into the parameter that it finds, so it finds a stand-in: the old one stays what it was.
        owner._parameters[name] = nn.Parameter(before.detach().clone(), requires_grad=False)
        parametrize.register_parametrization(owner, name, decoder)
        chain = parametrization(owner, name)
        chain.original = stored
        chain.place = place  # pyright: ignore[reportAttributeAccessIssue] - where `undecode` puts it back

    def undecode(self, path: str) -> None:
        """Give a path that `decode` changed a parameter of its own again, which holds what was read there."""
        self._refuse_wrapped()
        parent, _, name = path.rpartition(".")
        owner = self.model.get_submodule(parent)
        held: Any = getattr(owner, "parametrizations", {})
        if name not in held or foreign_parametrizations(owner):
            raise ModelChanged(
                f"'{path}' does not read its stored values alone any more: the parametrization is gone, or another one "
                "was put on this module. Take that off first."
            )
        chain = parametrization(owner, name)
        with torch.no_grad():
            value = getattr(owner, name).detach().clone()
        weight = like_parameter(chain.original, value)
        self._remember_contents(owner)
        entries = list(owner._parameters.items())
        entries.insert(getattr(chain, "place", 0), (name, weight))
        # Not by torch's remove_parametrizations: it takes the property off a class that deep copies share.
        if len(held) > 1:
            del held[name]
            own_class(owner, without=name)
        else:
            del owner._modules["parametrizations"]
            owner.__class__ = type(owner).__bases__[0]
        owner._parameters.clear()
        owner._parameters.update(entries)

    def derive(self, path: str, source: derived.Source) -> None:
        """Make a path read what a source makes, in place of the parameter that is there, which is stored here no more.

        Args:
            path: Full path of a parameter.
            source: Gives a tensor of the parameter's shape and dtype.
        """
        owner, name, _ = self._held(path)
        self._undo.append(derived.remember(owner))
        source.place = list(owner._parameters).index(name)
        del owner._parameters[name]
        derived.reread(owner, {**derived.sources(owner), name: source})

    def underive(self, path: str, tensor: nn.Parameter) -> None:
        """Give a path that `derive` changed a parameter again."""
        self._refuse_wrapped()
        parent, _, name = path.rpartition(".")
        owner = self.model.get_submodule(parent)
        made = derived.sources(owner)
        if name not in made or derived.plain_class(owner) is type(owner):
            raise ModelChanged(
                f"'{path}' is not read from what its plan stores any more, or {type(owner).__name__} was parametrized "
                "since: take that off first."
            )
        self._undo.append(derived.remember(owner))
        derived.reread(owner, {key: source for key, source in made.items() if key != name})
        entries = list(owner._parameters.items())
        entries.insert(made[name].place, (name, tensor))
        owner._parameters.clear()
        owner._parameters.update(entries)

    def add_child(self, path: str, module: nn.Module) -> None:
        """Register a module under a new path."""
        self._refuse_wrapped()
        parent, _, name = path.rpartition(".")
        owner = self.model.get_submodule(parent)
        if hasattr(owner, name):
            raise SpecError(f"Cannot put a module at '{path}': {type(owner).__name__} has something of that name.")
        self._undo.append(lambda: delattr(owner, name))
        owner.add_module(name, module)

    def drop_child(self, path: str) -> None:
        """Take away what `add_child` registered."""
        parent, _, name = path.rpartition(".")
        owner = self.model.get_submodule(parent)
        self._undo.append(lambda before=dict(owner._modules): owner._modules.update(before))
        del owner._modules[name]

    def watch_forward(self, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
        """Call functions around every forward pass of the model itself, `after` even when it fails.

        Args:
            name: Attribute of the model that holds the handles.
            before: As for `register_forward_pre_hook`.
            after: As for `register_forward_hook`.
        """
        self._remember_hooks(self.model)
        handles = (
            self.model.register_forward_pre_hook(before),
            self.model.register_forward_hook(after, always_call=True),
        )
        self.annotate(name, handles)

    def _refuse_wrapped(self) -> None:
        if self._wrapped is not None:
            raise ModelChanged(self._wrapped)

    def _held(self, path: str) -> tuple[nn.Module, str, nn.Parameter]:
        """The module that holds a parameter, its name there, and the parameter."""
        self._refuse_wrapped()
        parent, _, name = path.rpartition(".")
        owner = self.model.get_submodule(parent)
        before = owner.get_parameter(name)
        if name not in owner._parameters:  # a wrapper's property, as of PEFT's layers, which shows what it wraps
            raise ModelChanged(
                f"'{path}' belongs to another module, which {type(owner).__name__} wraps and shows under this name. "
                "Take the wrapper off first (of PEFT: model.unload())."
            )
        return owner, name, before

    def _remember_contents(self, module: nn.Module) -> None:
        kind = type(module)
        live_entries: list[dict[str, Any]] = [module._parameters, module._modules]
        if parametrize.is_parametrized(module):
            live_entries.append(module.get_submodule("parametrizations")._modules)
        held = [(live, dict(live)) for live in live_entries]

        def restore() -> None:
            module.__class__ = kind
            for live, before in held:
                live.clear()
                live.update(before)

        self._undo.append(restore)

    def write(self, tensor: Tensor, value: Tensor) -> None:
        """Overwrite the numbers of a parameter or buffer, keeping the object, its storage and whoever reads it."""
        if same_bits(tensor, value):
            return
        # Torch writes to some of these before it raises, so they are refused before it is asked.
        expanded = any(step == 0 and length > 1 for step, length in zip(tensor.stride(), tensor.shape, strict=True))
        if expanded or (tensor.is_inference() and not torch.is_inference_mode_enabled()):
            kind = "it was expanded" if expanded else "it was made in inference mode"
            raise SpecError(
                f"A tensor of shape {tuple(tensor.shape)} cannot be written in place: {kind}. Give the model "
                "parameters of its own, such as tensor.clone()."
            )
        before = tensor.detach().clone()
        self._undo.append(lambda: _copy(tensor, before))
        _copy(tensor, value)

    def forget_gradient(self, tensor: nn.Parameter) -> None:
        """Drop a gradient that was taken with other readers than the parameter has now."""
        before = tensor.grad
        self._undo.append(lambda: setattr(tensor, "grad", before))
        tensor.grad = None

    def annotate(self, name: str, value: object, at: str = "") -> None:
        """Set an attribute of the module at a path; `None` removes it. It holds names only, never tensors."""
        module = self.model.get_submodule(at)
        before = module.__dict__.get(name)
        self._undo.append(lambda: _annotate(module, name, before))
        _annotate(module, name, value)

    def watch_loading(self, name: str, at: str, before: Callable[..., None], after: Callable[..., None]) -> None:
        """Call functions around every `load_state_dict` of the module at a path.

        Args:
            name: Attribute that holds the handles, so that copies and pickles of the module can be unwatched too.
            at: Path of the module.
            before: As for `register_load_state_dict_pre_hook`.
            after: As for `register_load_state_dict_post_hook`.
        """
        module = self.model.get_submodule(at)
        self._remember_hooks(module)
        handles = (
            module.register_load_state_dict_pre_hook(before),
            module.register_load_state_dict_post_hook(after),
        )
        self.annotate(name, handles, at)

    def unwatch(self, name: str, at: str = "") -> None:
        """Undo `watch_loading` or `watch_forward`."""
        module = self.model.get_submodule(at)
        self._remember_hooks(module)
        for handle in module.__dict__.get(name, ()):
            handle.remove()
        self.annotate(name, None, at)

    def _remember_hooks(self, module: nn.Module) -> None:
        hooked: list[Any] = [module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks]
        hooked += [module._forward_pre_hooks, module._forward_hooks, module._forward_hooks_always_called]
        for hooks in hooked:
            self._undo.append(lambda hooks=hooks, before=dict(hooks): (hooks.clear(), hooks.update(before)))

    def roll_back(self) -> None:
        """Undo every edit, newest first; one that cannot be undone does not keep the others from it."""
        failure = None
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure


@contextmanager
def transaction(model: nn.Module) -> Iterator[Transaction]:
    """Edit a module all or nothing: if the body raises anything at all, every edit so far is undone, newest first."""
    edits = Transaction(model)
    try:
        yield edits
    except BaseException:
        edits.roll_back()
        raise


def tie(edits: Transaction, ties: Sequence[Sequence[str]], compare: bool = True) -> list[str]:
    """Make several paths hold one parameter object, the one that the first path holds now.

    Args:
        edits: Of the module to change.
        ties: Lists of paths; within a list all paths are to be one parameter.
        compare: Refuse to tie tensors that hold different numbers. `False` keeps the first path's numbers whatever
            the others hold, which is right for memory that is not filled yet.

    Returns:
        The paths that had come undone and now hold the first path's parameter again.

    Raises:
        ModelChanged: If a path is missing, or shapes, dtypes or (with `compare`) numbers differ.
    """
    mended = []
    for owner_path, *alias_paths in ties:
        if not alias_paths:
            continue
        owner = parameter_at(edits.model, owner_path)
        for path in alias_paths:
            alias = parameter_at(edits.model, path)
            if alias is owner:
                continue
            if (alias.shape, alias.dtype, alias.device) != (owner.shape, owner.dtype, owner.device):
                raise ModelChanged(
                    f"Cannot tie '{path}' to '{owner_path}' again: got {tuple(alias.shape)} {alias.dtype} on "
                    f"{alias.device}, the slot holds {tuple(owner.shape)} {owner.dtype} on {owner.device}. Make the "
                    "model as it was when it was shared."
                )
            if compare and not owner.is_meta and not same_bits(alias, owner):
                raise ModelChanged(
                    f"Cannot tie '{path}' to '{owner_path}' again: they hold different numbers, so one would be lost. "
                    f"Load a state in which they agree, or use compare=False to keep those of '{owner_path}'."
                )
            edits.put(path, owner)
            edits.forget_gradient(owner)
            mended.append(path)
    return mended


def untie(edits: Transaction, ties: Sequence[Sequence[str]]) -> None:
    """Give every path of each list but the first a parameter of its own, with equal numbers."""
    for owner_path, *alias_paths in ties:
        if not alias_paths:
            continue
        owner = parameter_at(edits.model, owner_path)
        edits.forget_gradient(owner)
        for path in alias_paths:
            if parameter_at(edits.model, path) is owner:
                twin = copy.deepcopy(owner)  # keeps a subclass; attributes are not copied by torch
                for name, value in owner.__dict__.items():
                    setattr(twin, name, value)
                edits.put(path, twin)


def parameter_at(model: nn.Module, path: str) -> nn.Parameter:
    """The parameter at a path.

    Raises:
        ModelChanged: If the model has no parameter there.
    """
    try:
        return model.get_parameter(path)
    except AttributeError as error:
        raise ModelChanged(
            f"{type(model).__name__} has no parameter '{path}': {error}. Plan for this model."
        ) from error


def like_parameter(model: nn.Parameter, value: Tensor) -> nn.Parameter:
    """A parameter of other numbers, of the same class, `requires_grad` and attributes."""
    made = Tensor._make_subclass(type(model), value, model.requires_grad)
    for name, attribute in model.__dict__.items():
        setattr(made, name, attribute)
    return made


def common_slot(paths: Sequence[str], tensors: Sequence[nn.Parameter], any_shape: bool = False) -> None:
    """Refuse weights that cannot be one: they differ in shape (unless any will do), dtype, device or `requires_grad`.

    Raises:
        ShapeMismatch: Naming the first weight that differs from the first of the list.
    """
    for path, tensor, first in zip(paths, tensors, [tensors[0]] * len(tensors), strict=True):
        for what, got, holds, advice in (
            ("shape", tuple(tensor.shape), tuple(first.shape), "Share within a stage, or leave it out of the pattern"),
            ("dtype", tensor.dtype, first.dtype, "Convert the model to one dtype first, or leave it out"),
            ("device", tensor.device, first.device, "Move them to one device first, or leave it out of the pattern"),
            ("requires_grad", tensor.requires_grad, first.requires_grad, "Freeze all layers of a slot, or none"),
        ):
            if got != holds and not (any_shape and what == "shape"):
                said = f"got {what} {got}, the slot holds {holds}"
                raise ShapeMismatch(f"Cannot tie '{path}' to '{paths[0]}': {said}. {advice}.")


@torch.no_grad()
def _copy(tensor: Tensor, value: Tensor) -> None:
    tensor.copy_(value)


def _annotate(model: nn.Module, name: str, value: object) -> None:
    if value is None:
        model.__dict__.pop(name, None)
    else:
        object.__setattr__(model, name, value)
