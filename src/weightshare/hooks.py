"""Hooks on an optimizer: what runs before or after each of its steps, in anyone's loop, without a wrapper.

`attach_` of a spec returns a handle of this kind. The handle holds the counters; the optimizer holds the hook. Copying
an optimizer drops its hooks, so whoever owns the loop keeps the handles: `fit` takes, saves and finishes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
import math
from typing import Any, Self

import torch
from torch import Tensor

from weightshare.errors import OptimizerMismatch, SpecError
from weightshare.surgery.sites import Site

_HALF = (torch.float16, torch.bfloat16)


class Handle(ABC):
    """What a spec has attached to an optimizer; abstract.

    Args:
        optimizer: A torch optimizer, or a wrapper that holds one as `.optimizer`.
        sites: The parameters that it works on.
        spec: What is attached; its text is kept in the state.

    Raises:
        OptimizerMismatch: If no group of the optimizer holds a parameter that was chosen, or it holds parameters that
            stand for parts of others (FSDP1, ZeRO), or averages its weights by itself (schedule-free).
        SpecError: If a parameter is complex, sparse, of half precision without a float32 master, or has a handle of
            this kind already.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, sites: Sequence[Site], spec: object) -> None:
        self.optimizer = innermost(optimizer)
        self.spec = spec
        name = type(spec).__name__
        _refuse_averaging(self.optimizer, name)
        self.sites = tuple(sites)
        groups = {id(p): i for i, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
        self._groups: list[int] = []
        for site in self.sites:
            _refuse(site, name)
            if id(site.tensor) not in groups:
                raise OptimizerMismatch(
                    f"{name}: '{site.path}' is in no group of the optimizer, so it has no learning rate. Attach to the "
                    "optimizer that trains it, or leave it out of where=."
                )
            self._groups.append(groups[id(site.tensor)])
        self._refuse_twice(name)
        self.steps = 0
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
        return [float(self.optimizer.param_groups[group]["lr"]) for group in self._groups]

    def remove(self) -> None:
        """Detach; the optimizer steps as it did without. Once is enough, twice does no harm."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as values that JSON can hold."""
        return {"spec": repr(self.spec), "paths": list(self.paths), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            SpecError: If the state is of another spec or of other parameters, or damaged. Nothing is changed then.
        """
        own = self.state_dict()
        for key in ("spec", "paths"):
            if state.get(key) != own[key]:
                raise SpecError(f"The state of a hook has {key} {state.get(key)!r}, this one has {own[key]!r}.")
        if set(state) != set(own) or type(state["steps"]) is not int or state["steps"] < 0:
            raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
        self.steps = state["steps"]

    @abstractmethod
    def after(self) -> None:
        """What happens after a step that changed weights; `self.steps` counts it already."""

    def before(self) -> None:  # noqa: B027 - most have nothing to do here
        """What happens before a step, gradients being there."""

    def _before_step(self, *_: object) -> None:
        self.before()

    def _after_step(self, *_: object) -> None:
        if not _overflowed(self.optimizer):
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


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers such as Fabric's and Accelerate's.

    Raises:
        SpecError: If there is none.
    """
    one = optimizer
    while isinstance(inner := getattr(one, "optimizer", None), torch.optim.Optimizer):
        one = inner
    if not isinstance(one, torch.optim.Optimizer):
        raise SpecError(f"Cannot attach to {type(optimizer).__name__}: need a torch optimizer, or what holds one.")
    return one


def _refuse(site: Site, name: str) -> None:
    tensor, path = site.tensor, site.path
    if type(tensor).__name__ == "FlatParameter":
        raise OptimizerMismatch(f"{name}: '{path}' is a flat parameter of FSDP1. Use fully_shard (FSDP2).")
    if getattr(tensor, "ds_id", None) is not None:
        raise OptimizerMismatch(f"{name}: '{path}' is partitioned by ZeRO-3. Use fully_shard (FSDP2), or stage 0.")
    if tensor.dtype in _HALF:
        raise SpecError(
            f"{name}: '{path}' is {tensor.dtype} and has no float32 master: small steps would be lost in rounding. "
            "Keep parameters in float32 and train with autocast or a mixed-precision policy."
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        raise SpecError(f"{name}: '{path}' is {tensor.dtype}, need float32 or float64.")
    if tensor.layout != torch.strided:
        raise SpecError(f"{name}: '{path}' has layout {tensor.layout}, need a dense tensor.")


def _refuse_averaging(optimizer: torch.optim.Optimizer, name: str) -> None:
    if any("train_mode" in group for group in optimizer.param_groups):
        raise OptimizerMismatch(
            f"{name}: {type(optimizer).__name__} is schedule-free: what the model holds after a step is an "
            "interpolation, which the map must not be applied to. Use an optimizer with a schedule."
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
