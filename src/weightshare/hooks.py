"""Hooks on an optimizer: what runs before or after each of its steps, in anyone's loop, without a wrapper.

`attach_` of a spec returns a handle of this kind. The handle holds the counters; the optimizer holds the hook. Copying
an optimizer drops its hooks, so whoever owns the loop keeps the handles: `fit` takes, saves and finishes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
import hashlib
import math
import sys
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weightshare.errors import ModelChanged, OptimizerMismatch, SpecError
from weightshare.surgery.shards import is_unit, settle_
from weightshare.surgery.sites import Site, plain

_HALF = (torch.float16, torch.bfloat16)


class Handle(ABC):
    """What a spec has attached to an optimizer; abstract.

    Args:
        optimizer: A torch optimizer, or a wrapper that holds one as `.optimizer`.
        model: The model that it trains, in which `sites` were found.
        sites: The parameters that it works on.
        spec: What is attached.

    Raises:
        OptimizerMismatch: If no group of the optimizer holds a parameter that was chosen, or one has no learning rate;
            if it holds parameters that stand for parts of others (FSDP1, ZeRO), averages its weights by itself
            (schedule-free), or is of a kind that runs no hooks.
        SpecError: If a parameter is complex, sparse, of half precision without a float32 master, is decoded before it
            is read, or has a handle of this kind already.
    """

    looks: ClassVar[bool] = False
    """Whether it looks at the parameters and changes none: they may be frozen, then, and of any dtype."""

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, sites: Sequence[Site], spec: object) -> None:
        self.optimizer = innermost(optimizer)
        self.model, self.spec, self.sites = plain(model), spec, tuple(sites)
        name = type(spec).__name__
        _refuse_kind(self.optimizer, name)
        if not self.looks:
            for site in self.sites:
                _refuse(site, name)
            self._owners()
        self._refuse_twice(name)
        self.steps = 0
        self._depth = 0
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters that it works on, by path; one that is read under several names stands once."""
        return tuple(site.path for site in self.sites)

    @property
    def lrs(self) -> list[float]:
        """The learning rate of each parameter now: that of the group which owns it."""
        return [float(group["lr"]) for group in self._owners()]

    def remove(self) -> None:
        """Detach; the optimizer steps as it did without. Once is enough, twice does no harm."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__} belongs to its optimizer, and a copy would be attached to nothing. Keep its "
            "state_dict(), attach to the copied optimizer, and load it there."
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as values that JSON can hold."""
        return {"spec": described(self.spec), "paths": list(self.paths), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            SpecError: If the state is of another spec or of other parameters, or damaged. Nothing is changed then.
        """
        own = self.state_dict()
        for key in ("spec", "paths"):
            if state.get(key) != own[key]:
                raise SpecError(f"The state of a hook has {key} {state.get(key)!r}, this one has {own[key]!r}.")
        if set(state) != set(own) or not is_count(state["steps"]):
            raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
        self.steps = state["steps"]

    @abstractmethod
    def after(self) -> None:
        """What happens after a step that changed weights; `self.steps` counts it already."""

    def before(self) -> None:  # noqa: B027 - most have nothing to do here
        """What happens before a step, gradients being there."""

    def expect_held(self) -> None:
        """Refuse to go on with parameters that the model does not read any more, or that have become something else.

        Raises:
            ModelChanged: If sharing, a codebook or a loaded state has put another parameter at a path.
            SpecError: If a parameter has become of half precision since.
        """
        for site in self.sites:
            try:
                now = self.model.get_parameter(site.path)
            except AttributeError:
                now = None
            if now is not site.tensor and any(map(is_unit, self.model.modules())):
                settle_(self.model)
                now = self.model.get_parameter(site.path)
            if now is not site.tensor:
                raise ModelChanged(
                    f"{type(self.spec).__name__}: the model does not read the '{site.path}' any more that this was "
                    "attached to. Share first, then make the optimizer, then attach."
                )
            if not self.looks:
                _refuse(site, type(self.spec).__name__)

    def _owners(self) -> list[dict[str, Any]]:
        """The group of the optimizer that owns each parameter now."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        name = type(self.spec).__name__
        for site in self.sites:
            if id(site.tensor) not in groups:
                raise OptimizerMismatch(
                    f"{name}: '{site.path}' is in no group of the optimizer, so it has no learning rate. Attach to the "
                    "optimizer that trains it, or leave it out of where=."
                )
            if not isinstance(groups[id(site.tensor)].get("lr"), int | float | Tensor):
                raise OptimizerMismatch(f"{name}: the group of '{site.path}' has no learning rate 'lr'.")
        return [groups[id(site.tensor)] for site in self.sites]

    def _before_step(self, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._depth and _running(self.optimizer) < 2:
            self._depth = 0  # a step before this one raised
        self._depth += 1
        if self._depth > 1 or type(self).before is Handle.before:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self.expect_held()
            self.before()
            return None

        def with_more() -> Any:  # gradients are there only once the closure has run
            loss = closure()
            self.expect_held()
            self.before()
            return loss

        return args[:1], {**kwargs, "closure": with_more}

    def _after_step(self, *_: object) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and not _overflowed(self.optimizer):
            self.expect_held()
            self.steps += 1
            self.after()

    def _refuse_twice(self, name: str) -> None:
        mine = {id(site.tensor): site.path for site in self.sites}
        for hook in self.optimizer._optimizer_step_post_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, Handle) and type(other) is type(self):
                for site in other.sites:
                    if id(site.tensor) in mine:
                        raise SpecError(
                            f"{name}: '{mine[id(site.tensor)]}' has one already: {other.spec!r}. Remove that handle "
                            "first, or leave the parameter out of one of the two where=."
                        )


def add_to_gradient(parameter: Tensor, direction: Tensor, strength: float, optimizer: torch.optim.Optimizer) -> None:
    """Add `strength·direction` to a parameter's gradient, if it has one, before a step.

    Args:
        parameter: Whose gradient changes.
        direction: Of its shape.
        strength: Factor on it.
        optimizer: A fused one that unscales gradients by itself gets the addition scaled.
    """
    if parameter.grad is None:
        return
    scale = getattr(optimizer, "grad_scale", None)
    factor = strength if scale is None else strength * float(scale)
    parameter.grad.add_(direction.to(parameter.grad.dtype), alpha=factor)


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers such as Fabric's and Accelerate's.

    Raises:
        SpecError: If there is none.
    """
    found, one, seen = None, optimizer, []
    while one is not None and not any(one is other for other in seen):
        found = one if isinstance(one, torch.optim.Optimizer) else found
        seen.append(one)
        one = getattr(one, "optimizer", None)
    if found is None:
        raise SpecError(f"Cannot attach to {type(optimizer).__name__}: need a torch optimizer, or what holds one.")
    return found


def described(spec: Any) -> str:
    """A spec as text that is the same in every process: functions by name, tensors by their content."""
    if not is_dataclass(spec) or isinstance(spec, type):
        return repr(spec)
    parts = [f"{entry.name}={_text(getattr(spec, entry.name))}" for entry in fields(spec)]
    return f"{type(spec).__name__}({', '.join(parts)})"


def _text(value: Any) -> str:
    if is_dataclass(value):
        return described(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(repr(value.tolist()).encode()).hexdigest()[:16]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(one) for one in value)}]"
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


def _running(optimizer: torch.optim.Optimizer) -> int:
    """How many calls of this optimizer's step are on the stack: a subclass may call its parent's, hooks and all."""
    count, frame = 0, sys._getframe(1)
    while frame is not None:
        hooked = frame.f_code.co_name == "wrapper" and frame.f_globals.get("__name__") == "torch.optim.optimizer"
        count += hooked and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return count


def _refuse(site: Site, name: str) -> None:
    tensor, path = site.tensor, site.path
    if type(tensor).__name__ == "FlatParameter" or getattr(tensor, "_fsdp_flattened", False):
        raise OptimizerMismatch(f"{name}: '{path}' is, or lies in, a flat parameter of FSDP1. Use fully_shard (FSDP2).")
    if getattr(tensor, "ds_id", None) is not None:
        raise OptimizerMismatch(f"{name}: '{path}' is partitioned by ZeRO-3. Use fully_shard (FSDP2), or stage 0.")
    if "parametrizations" in path.split("."):
        raise SpecError(
            f"{name}: '{path}' is what a parametrization, such as a codebook, makes a weight from; no forward pass "
            "reads it. Take that off first (unshare_ does, for a codebook), or leave it out of where=."
        )
    if tensor.dtype in _HALF:
        raise SpecError(
            f"{name}: '{path}' is {tensor.dtype} and has no float32 master: small steps would be lost in rounding. "
            "Keep parameters in float32 and train with autocast or a mixed-precision policy."
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        raise SpecError(f"{name}: '{path}' is {tensor.dtype}, need float32 or float64.")
    if tensor.layout != torch.strided:
        raise SpecError(f"{name}: '{path}' has layout {tensor.layout}, need a dense tensor.")


def _refuse_kind(optimizer: torch.optim.Optimizer, name: str) -> None:
    kind = type(optimizer)
    if any("train_mode" in group for group in optimizer.param_groups):
        raise OptimizerMismatch(
            f"{name}: {kind.__name__} is schedule-free: what the model holds after a step is an "
            "interpolation, which the map must not be applied to. Use an optimizer with a schedule."
        )
    if not getattr(kind.step, "hooked", False):
        raise OptimizerMismatch(
            f"{name}: {kind.__name__} does not call torch.optim.Optimizer.__init__, so its step runs no hooks. Attach "
            "to the optimizer inside of it, if it has one."
        )


def _overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer was told by GradScaler to leave the weights as they were."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found)


def expect_number(what: str, value: object, low: float = 0.0, high: float = math.inf) -> float:
    """`value` as a finite float from `low` to `high`; `SpecError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{what}={value!r}: need a number.")
    if not math.isfinite(value) or not low <= value <= high:
        span = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise SpecError(f"{what}={value!r}: need a finite number {span}.")
    return float(value)


def expect_count(what: str, value: object, low: int) -> int:
    """`value` as a whole number of at least `low`; `SpecError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SpecError(f"{what}={value!r}: need a whole number of at least {low}.")
    return value


def is_count(value: object) -> bool:
    """Whether a value of a file is a whole number that steps can have."""
    return type(value) is int and 0 <= value < 2**53
