"""What the callbacks of all frameworks have in common: share, attach, keep the counters, take it off again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weightshare._typing import Where
from weightshare.errors import SpecError, TrainingError
from weightshare.hooks import Handle, innermost
from weightshare.optimizer import check
from weightshare.planning import applied_plans
from weightshare.sharing import Spec
from weightshare.training import attached
from weightshare.training.measures import measured
from weightshare.verbs import refuse_untied, share_


@dataclass(frozen=True)
class Attach:
    """A spec, which parameters it is for, and which optimizer steps them.

    Args:
        spec: What has an `attach_`: `Proximal`, `Sleep`, `SimilarityPenalty`, `Record` and their like.
        where: As for its `attach_`.
        optimizer: Number of the optimizer, where there are several.
    """

    spec: Any
    where: Where = None
    optimizer: int = 0


class Attaching:
    """Specs that are attached when training starts and taken off when it ends.

    Args:
        attach: Specs, or `Attach(spec, where, optimizer)`.
        share: What the model is shared by before it trains, unless a plan was applied to it already.
        where: Of `share`.

    Raises:
        SpecError: If one of them cannot be attached, or `share` is no spec.
    """

    def __init__(self, attach: Sequence[Any], share: Spec | None, where: Where) -> None:
        self.entries = [entry if isinstance(entry, Attach) else Attach(entry) for entry in attach]
        for entry in self.entries:
            if not callable(getattr(type(entry.spec), "attach_", None)):
                raise SpecError(f"attach={entry.spec!r}: need specs with attach_, such as Proximal(strength=1e-3).")
        if share is not None and not isinstance(share, Spec):
            raise SpecError(f"share={share!r} is no spec: give one such as Tie(rate=2).")
        if share is None and where is not None:
            raise SpecError("where= goes with share=. For what is attached, say Attach(spec, where).")
        self.share, self.where = share, where
        self.handles: list[Handle] = []
        self.model: nn.Module | None = None
        self._finished = False
        self._states: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] | None = None

    def share_(self, model: nn.Module) -> None:
        """Share the model, unless it is shared: before its optimizer is made."""
        if self.share is not None and not any(True for _ in applied_plans(model)):
            share_(model, self.share, self.where)

    def begin(self, optimizers: Sequence[Any], model: nn.Module) -> None:
        """Attach everything, or nothing, and go on where loaded states were taken.

        Raises:
            ModelChanged: If ties have come undone.
            OptimizerMismatch: If the optimizers do not fit the model.
            SpecError: If a spec cannot be attached, or a loaded state is of another one.
        """
        self.end()
        refuse_untied(model)
        inner = [innermost(optimizer) for optimizer in optimizers]
        check(inner, model)
        try:
            for entry in self.entries:
                self.handles.append(entry.spec.attach_(_numbered(inner, entry), model, entry.where))
            self._load()
        except BaseException:
            self.end()
            raise
        self.model, self._finished = model, False

    def finish(self) -> None:
        """Tell handles that the last step is done; once."""
        if not self._finished:
            attached.finish(self.handles)
        self._finished = True

    def epoch_ended(self) -> None:
        """Tell handles that an epoch is over."""
        attached.epoch_ended(self.handles)

    def measure(self) -> dict[str, float]:
        """How far the model shares: see `training.measures.measured`."""
        return measured(self.model, self.handles) if self.model is not None else {}

    def end(self) -> None:
        """Take everything off; the states stay, since checkpoints may be written afterwards."""
        self._states = self.states()
        for handle in self.handles:
            handle.remove()
        self.handles, self.model = [], None

    def states(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps: for each spec what JSON can hold."""
        return [handle.state_dict() for handle in self.handles] or self._states

    def load(self, states: object) -> None:
        """Go on where `states` was taken: now, or when training starts.

        Raises:
            TrainingError: If they are not those of as many specs.
            SpecError: If a state is of another spec or of other parameters.
        """
        wanted = len(self.entries)
        if not isinstance(states, list) or len(states) != wanted or not all(isinstance(one, Mapping) for one in states):
            raise TrainingError(
                f"The checkpoint does not hold the state of {wanted} attached specs: it was written by a run without "
                "them. Give the callback that it was written with; or load its weights alone and start a new run."
            )
        self._loaded = states
        if self.handles:
            self._load()

    def _load(self) -> None:
        for handle, state in zip(self.handles, self._loaded or [], strict=self._loaded is not None):
            handle.load_state_dict(state)
        self._loaded = None


def _numbered(optimizers: Sequence[torch.optim.Optimizer], entry: Attach) -> torch.optim.Optimizer:
    if not 0 <= entry.optimizer < len(optimizers):
        raise SpecError(f"{entry.spec!r} is for optimizer {entry.optimizer}; there are {len(optimizers)}, from 0.")
    return optimizers[entry.optimizer]
