"""transformers: a callback that attaches what runs with the Trainer's optimizer, and lets it save shared models.

    ws.share_(model, ws.Tie(rate=2), "bert.encoder.layer")
    Trainer(model, args, train_dataset=data, callbacks=[SharingCallback([ws.Proximal(strength=1e-3)])])

It hangs on the steps that the optimizer makes, so gradient accumulation and mixed precision go with it. Counters lie in
each checkpoint's `trainer_state.json`: `train(resume_from_checkpoint=True)` goes on with them.

**Saving.** `save_pretrained`, and so the Trainer, refuses tensors in the same memory that a model's class does not
declare as tied. `declare_ties` declares them: each slot is written once, under its first name. The Trainer loads such a
file back into the shared model, whose hooks tie again. `from_pretrained`, which knows no plan, would draw the other
readers anew: give it what `unshare_` leaves.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from weightshare.errors import ConfigError, TrainingError
from weightshare.integrations.attaching import Attach, Attaching
from weightshare.models.by_name import mend_torchvision
from weightshare.planning import applied_ties
from weightshare.surgery.sites import sites, unwrapped

mend_torchvision()  # half of transformers imports it
try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as missing:
    raise ConfigError(f"transformers is not installed ({missing}): pip install 'weightshare[models]'.") from missing

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

__all__ = ["Attach", "SharingCallback", "declare_ties"]


class SharingCallback(TrainerCallback, ExportableState):
    """Attaches specs to the Trainer's optimizer when training starts, and declares the model's ties.

    Share the model before the Trainer is made. Give one such callback, and leave
    `TrainingArguments(restore_callback_states_from_checkpoint=...)` off: it would replace the callback by an empty one.

    Args:
        attach: Specs with an `attach_`, such as `Proximal` and `Sleep`; or `Attach(spec, where)`.

    Raises:
        SpecError: If a value cannot be used. When training starts: if a spec cannot be attached.
        OptimizerMismatch: When training starts: if the optimizer was made before the model was shared.
        ModelChanged: When training starts: if ties have come undone.
        TrainingError: When training resumes from a checkpoint that was written without this callback.
    """

    def __init__(self, attach: Sequence[Any] = ()) -> None:
        self.attaching = Attaching(attach, None, None)

    def state(self) -> dict[str, Any]:
        """What goes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"handles": self.attaching.states()}}

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **more: Any
    ) -> None:
        model = unwrapped(more["model"])
        declare_ties(model)
        if state.global_step:
            self.attaching.load(self._written(state))
        self.attaching.begin([more["optimizer"]], model)

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **more: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            self.attaching.finish()  # before the last evaluation, and before the last checkpoint

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **more: Any
    ) -> None:
        self.attaching.epoch_ended()

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        found = self.attaching.measure()
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry.update(found)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **more: Any
    ) -> None:
        self.attaching.finish()
        self.attaching.end()

    def _written(self, state: "TrainerState") -> list[dict[str, Any]]:
        written: Any = state.stateful_callbacks or {}
        entry = written.get(type(self).__name__)
        if not isinstance(entry, dict):
            raise TrainingError(
                f"The checkpoint at step {state.global_step} was written without {type(self).__name__}, so it does not "
                "say how far what is attached had come. Load its weights alone and start a new run."
            )
        return entry.get("attributes", {}).get("handles")


def declare_ties(model: nn.Module) -> dict[str, str]:
    """Let `save_pretrained`, and so the Trainer, write a shared model: each slot once, under its first name.

    Args:
        model: Shared by plans. Its attribute `_tied_weights_keys` is set; a class's own ties stay declared.

    Returns:
        For each other name of a slot the first one.

    Example:
        >>> from torch import nn
        >>> import weightshare as ws
        >>> model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = ws.share_(model, ws.Tie(rate=2), "*.weight")
        >>> declare_ties(model)
        {'1.weight': '0.weight'}
    """
    model = unwrapped(model)
    planned = {name for tie in applied_ties(model) for name in tie}
    ties = {alias: site.path for site in sites(model) if planned & {*site.names} for alias in site.aliases}
    own: Any = getattr(model, "_tied_weights_keys", None) or {}
    if ties:
        declared: Any = {**own, **ties} if isinstance(own, dict) else [*own, *ties]  # a list before version 5
        model._tied_weights_keys = declared
    return ties
