"""Lightning's trainer with the callback: the same weights as a loop written by hand, and as a run without a break."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
import pytest
import torch
from torch import Tensor, nn

from tests.support import same_bits
from tests.unit.integrations.lightning_digits import BATCH, IMAGES, QUIET, Classifier, loader, trainer
import weightshare as ws
from weightshare.errors import ModelChanged, OptimizerMismatch, SpecError, TrainingError
from weightshare.integrations.lightning import Attach, SharingCallback
from weightshare.space.plasticity import Hebbian

pytestmark = [pytest.mark.filterwarnings(warning) for warning in QUIET]
STEPS = IMAGES // BATCH
TIE, WHERE = ws.Tie(rate=2), "net.blocks"


def callback(**more: Any) -> SharingCallback:
    """Sharing across layers, scalars and positions at once, none of them at every step."""
    specs = [
        Attach(ws.Proximal(1e-3, every=5), "net.blocks"),
        ws.Sleep(every=4, mode=Hebbian(iterations=3), strength=0.5),
    ]
    return SharingCallback(specs, share=TIE, where=WHERE, **more)


def by_hand(epochs: int, accumulate: int = 1, dtype: torch.dtype = torch.float32) -> Classifier:
    """What the callback stands for, in a loop."""
    module = Classifier().to(dtype)
    ws.share_(module, TIE, WHERE)
    optimizer = module.configure_optimizers()
    proximal, sleep = (entry.spec.attach_(optimizer, module, entry.where) for entry in callback().attaching.entries)
    for _ in range(epochs):
        for number, (images, labels) in enumerate(loader()):
            (module.training_step([images.to(dtype), labels], number) / accumulate).backward()
            if (number + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        if _ == epochs - 1:
            proximal.finish()
        sleep.epoch_ended()
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_loop_by_hand(tmp_path: Path, accumulate: int) -> None:
    module = Classifier()
    trainer(tmp_path, callback(), accumulate_grad_batches=accumulate).fit(module, loader())
    assert module.net.blocks[0].weight is module.net.blocks[1].weight
    assert same_bits(module.parameters(), by_hand(2, accumulate).parameters())


def checkpoints(folder: Path, **more: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, **more)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # it misses the ModelCheckpoint
def test_a_run_from_a_checkpoint_equals_one_without_a_break(tmp_path: Path) -> None:
    whole = Classifier()
    trainer(tmp_path, callback(), checkpoints(tmp_path), enable_checkpointing=True, max_epochs=4).fit(whole, loader())
    (half,) = tmp_path.glob("epoch=1-*.ckpt")
    resumed, again = Classifier(seed=1), callback()
    trainer(tmp_path, again, max_epochs=4).fit(resumed, loader(), ckpt_path=half)
    assert again.state_dict()["handles"][0]["steps"] == 4 * STEPS
    assert resumed.net.blocks[2].weight is resumed.net.blocks[3].weight
    assert same_bits(whole.parameters(), resumed.parameters())

    forgetful = Classifier(seed=1)
    without = trainer(tmp_path, callback(), max_epochs=4)
    content = torch.load(half, weights_only=True)
    content["callbacks"]["SharingCallback"] = {"handles": [one.state_dict() for one in fresh_handles()]}
    torch.save(content, tmp_path / "forgotten.ckpt")
    without.fit(forgetful, loader(), ckpt_path=tmp_path / "forgotten.ckpt")
    assert not same_bits(whole.parameters(), forgetful.parameters())  # so the counters did matter


def fresh_handles() -> list[Any]:
    module = Classifier()
    ws.share_(module, TIE, WHERE)
    optimizer = module.configure_optimizers()
    return [entry.spec.attach_(optimizer, module, entry.where) for entry in callback().attaching.entries]


class Twice(Classifier):
    """Manual optimization by two optimizers, of which the second steps the head, every other time."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        body = [one for name, one in self.named_parameters() if "head" not in name]
        return torch.optim.SGD(body, lr=0.1), torch.optim.SGD(self.net.head.parameters(), lr=0.1)

    def training_step(self, batch: list[Tensor], index: int) -> None:
        body, head = self.optimizers()
        self.manual_backward(super().training_step(batch, index))
        body.step()
        body.zero_grad()
        if index % 2:
            head.step()
            head.zero_grad()


def test_manual_optimization_by_several_optimizers(tmp_path: Path) -> None:
    specs = [Attach(ws.Proximal(1e-3), "net.blocks"), Attach(ws.Proximal(100.0), "net.head.weight", optimizer=1)]
    sharing, module = SharingCallback(specs, share=TIE, where=WHERE), Twice()
    trainer(tmp_path, sharing).fit(module, loader())
    assert [state["steps"] for state in sharing.state_dict()["handles"]] == [2 * STEPS, STEPS]
    assert module.net.head.weight.unique().numel() == 1
    with pytest.raises(SpecError, match="is for optimizer 2; there are 2"):
        trainer(tmp_path, SharingCallback([Attach(ws.Proximal(1.0), optimizer=2)])).fit(Twice(), loader())
    with pytest.raises(OptimizerMismatch, match=r"'net\.head\.weight' is in no group"):
        trainer(tmp_path, SharingCallback([Attach(ws.Proximal(1.0), "net.head")])).fit(Twice(), loader())


class Overflowing(Classifier):
    """Its second batch has a gradient that float16 cannot hold."""

    fused = False

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return super().training_step(batch, index) * (1e30 if index == 1 else 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=self.fused)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_does_not_count(tmp_path: Path, fused: bool) -> None:
    sharing, module = callback(), Overflowing()
    module.fused = fused
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=16.0))
    trainer(tmp_path, sharing, plugins=[precision], max_epochs=1).fit(module, loader())
    assert sharing.state_dict()["handles"][0]["steps"] == STEPS - 1
    assert all(bool(one.isfinite().all()) for one in module.parameters())


def test_what_it_measures_is_logged(tmp_path: Path) -> None:
    module = Classifier()
    loud = trainer(tmp_path, callback())
    loud.fit(module, loader())
    assert 0 < loud.logged_metrics["distinct_share"] <= 1
    assert {"zero_share", "penalty"} <= set(loud.logged_metrics)
    quiet = trainer(tmp_path, callback(log=False))
    quiet.fit(Classifier(), loader())
    assert not quiet.logged_metrics


class Breaks(Callback):
    """Fails, or looks at what is attached, in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the power is out")


def test_hooks_are_gone_afterwards_and_states_are_not(tmp_path: Path) -> None:
    whole, broken = callback(), callback()
    runs = [trainer(tmp_path, whole), trainer(tmp_path, broken, Breaks())]
    runs[0].fit(Classifier(), loader())
    with pytest.raises(RuntimeError, match="the power is out"):
        runs[1].fit(Classifier(), loader())
    assert not any(run.optimizers[0]._optimizer_step_post_hooks for run in runs)
    assert [one.state_dict()["handles"][0]["steps"] for one in (whole, broken)] == [2 * STEPS, STEPS]


def test_a_module_that_is_shared_already_stays_as_it_is(tmp_path: Path) -> None:
    module, sharing = Classifier(), SharingCallback(share=ws.Tie(rate=2), where="net.blocks.*.weight")
    ws.share_(module, ws.Tie(rate=4), "net.blocks.*.weight")
    run = trainer(tmp_path, sharing)
    run.fit(module, loader())
    assert module.net.blocks[0].weight is module.net.blocks[3].weight


class Early(Classifier):
    """Its optimizer is made too early."""

    def __init__(self) -> None:
        super().__init__()
        self.early = super().configure_optimizers()

    def configure_optimizers(self) -> Any:
        return self.early


def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(OptimizerMismatch, match="trains nothing"):
        trainer(tmp_path, callback()).fit(Early(), loader())
    module = Classifier()
    ws.share_(module, TIE, WHERE)
    module.net.blocks[1].weight = nn.Parameter(module.net.blocks[1].weight.detach() + 1)
    with pytest.raises(ModelChanged, match="no longer are"):
        trainer(tmp_path, SharingCallback()).fit(module, loader())
    with pytest.raises(SpecError, match="need specs with attach_"):
        SharingCallback([ws.Tie(rate=2)])
    with pytest.raises(SpecError, match="is no spec"):
        SharingCallback(share=ws.Proximal(1.0))
    with pytest.raises(SpecError, match="where= goes with share="):
        SharingCallback([ws.Proximal(1.0)], where="net")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    module = Classifier()
    ws.share_(module, TIE, WHERE)
    plain = trainer(tmp_path, checkpoints(tmp_path), enable_checkpointing=True)
    plain.fit(module, loader())
    path = next(tmp_path.glob("*.ckpt"))
    with pytest.raises(TrainingError, match="was written without SharingCallback"):
        trainer(tmp_path, callback(), max_epochs=4).fit(Classifier(), loader(), ckpt_path=path)
    run = trainer(tmp_path, callback())
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "ours.ckpt")
    for other, said in ((SharingCallback(share=TIE, where=WHERE), "state of 0"), (changed(), "Proximal")):
        with pytest.raises((TrainingError, SpecError), match=said):
            trainer(tmp_path, other, max_epochs=4).fit(Classifier(), loader(), ckpt_path=tmp_path / "ours.ckpt")


def changed() -> SharingCallback:
    found = callback()
    found.attaching.entries[0] = Attach(ws.Proximal(2e-3, every=5), "net.blocks")
    return found
