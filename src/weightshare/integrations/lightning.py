"""Lightning: a callback that shares a module, and attaches what runs with its optimizers.

    trainer = Trainer(callbacks=[SharingCallback(attach=[ws.Proximal(strength=1e-3)], share=ws.Tie(rate=2))])

It holds for automatic and manual optimization, gradient accumulation and mixed precision, since it hangs on the steps
that optimizers make and on no batch. Counters lie in Lightning's checkpoints: `fit(ckpt_path=...)` goes on with them.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
import sys
from typing import TYPE_CHECKING, Any

from weightshare._typing import Where
from weightshare.errors import ConfigError, TrainingError
from weightshare.integrations.attaching import Attach, Attaching
from weightshare.models.by_name import mend_torchvision
from weightshare.sharing import Spec
from weightshare.verbs import retie_


def _callback_class() -> Any:
    """Of the package that is in use: Lightning is installed under two names, whose classes differ."""
    mend_torchvision()  # Lightning's metrics import it
    names = ["lightning.pytorch", "pytorch_lightning"]
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ConfigError("Lightning is not installed: pip install 'weightshare[lightning]'.")


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = _callback_class()

__all__ = ["Attach", "SharingCallback"]


class SharingCallback(Callback):
    """Shares a module before its optimizers are made, and attaches specs to these when training starts.

    Args:
        attach: Specs with an `attach_`, such as `Proximal` and `Sleep`; or `Attach(spec, where, optimizer)` for one
            that is for some parameters, or for another optimizer than the first of `configure_optimizers`.
        share: How to share the module; `None` where it is shared already, or not to be. Parameters that
            `configure_model` makes are not there yet: share them there.
        where: Which parameters `share` is for, by the rule of `plan`, from the module's root (`"model.blocks"`).
        log: Whether to log after each epoch how far the module shares: `distinct_share`, `zero_share` and `penalty` of
            regularised weights, and what else `training.measures.measured` gives.

    Raises:
        SpecError: If a value cannot be used. When training starts: if a spec cannot be attached.
        OptimizerMismatch: When training starts: if an optimizer was made before the module was shared.
        ModelChanged: When training starts: if ties have come undone.
        TrainingError: When a checkpoint is resumed from that was written without this callback.
    """

    def __init__(
        self, attach: Sequence[Any] = (), share: Spec | None = None, where: Where = None, log: bool = True
    ) -> None:
        super().__init__()
        self.attaching = Attaching(attach, share, where)
        self.log_measures = log

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        self.attaching.share_(pl_module)

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self.attaching.begin(trainer.optimizers, pl_module)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.is_last_batch and last_epoch) or trainer.global_step == trainer.max_steps:
            self.attaching.finish()  # before the last evaluation, and before the last checkpoint

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self.attaching.epoch_ended()
        if self.log_measures:
            pl_module.log_dict(self.attaching.measure(), on_epoch=True, sync_dist=True, batch_size=1)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self.attaching.finish()

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        self.attaching.end()

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        self.attaching.end()

    def state_dict(self) -> dict[str, Any]:
        return {"handles": self.attaching.states()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.attaching.load(state_dict.get("handles"))

    def on_load_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        retie_(pl_module)
        if self.state_key not in checkpoint["callbacks"]:
            raise TrainingError(
                f"The checkpoint was written without {type(self).__name__}, so it does not say how far what is "
                "attached had come. Load its weights alone and start a new run: fit without ckpt_path."
            )
