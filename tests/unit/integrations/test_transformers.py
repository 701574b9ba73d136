"""The Trainer of transformers with the callback: steps, checkpoints, and files of shared models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from tests.support import same_bits
import weightshare as ws
from weightshare.errors import ModelChanged, OptimizerMismatch, SharingError, SpecError, TrainingError
from weightshare.integrations.transformers import Attach, SharingCallback, declare_ties
from weightshare.training.data.digits import digits

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments  # isort: skip

ROWS, BATCH, STEPS = 48, 8, 6
WHERE = "bert.encoder.layer.*.intermediate.dense"
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")


class Rows(Dataset):
    """Pixels of the middle of a digit as words, 0 to 16."""

    def __init__(self) -> None:
        split = digits().train
        self.words = split.images[:ROWS, 0, 3:5].flatten(1).long()
        self.labels = split.labels[:ROWS]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.words[row], "labels": self.labels[row]}


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 17, "hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 10}
    config = BertConfig(**sizes, intermediate_size=20, max_position_embeddings=16)
    return BertForSequenceClassification(config)


def shared(seed: int = 0, spec: Any = None) -> nn.Module:
    model = bert(seed)
    ws.share_(model, spec or ws.Tie(rate=2), WHERE)
    return model


def trainer(model: nn.Module, folder: Path, *callbacks: Any, **more: Any) -> Trainer:
    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "epoch"}
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": BATCH, "learning_rate": 1e-2, **quiet, **more}
    settings.setdefault("save_strategy", "no")
    args = TrainingArguments(str(folder), **settings)
    return Trainer(model, args, train_dataset=Rows(), callbacks=list(callbacks))


def callback() -> SharingCallback:
    return SharingCallback([Attach(ws.Proximal(1.0, every=4), WHERE)])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_application_for_each_step_of_the_optimizer(tmp_path: Path, accumulate: int) -> None:
    model, sharing = shared(), callback()
    run = trainer(model, tmp_path, sharing, gradient_accumulation_steps=accumulate)
    run.train()
    (state,) = sharing.state()["attributes"]["handles"]
    assert state["steps"] == run.state.global_step == 2 * STEPS // accumulate
    weights = [layer.intermediate.dense.weight for layer in model.bert.encoder.layer]
    assert weights[0] is weights[1]
    assert weights[0].unique().numel() < weights[0].numel()  # `finish` merged what touched
    assert 0 < run.state.log_history[0]["distinct_share"] <= 1
    assert not run.optimizer.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("spec", [ws.Tie(rate=2), ws.Templates(2)])
def test_a_run_from_a_checkpoint_equals_one_without_a_break(tmp_path: Path, spec: ws.Tie) -> None:
    whole = shared(0, spec)
    entries = [Attach(ws.Proximal(1e-2, every=4), "classifier")]
    trainer(whole, tmp_path, SharingCallback(entries), save_strategy="steps", save_steps=5).train()
    resumed, again = shared(1, spec), SharingCallback(entries)
    trainer(resumed, tmp_path, again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert again.state()["attributes"]["handles"][0]["steps"] == 2 * STEPS
    assert same_bits(whole.parameters(), resumed.parameters())
    assert [len(one) for one in parts(whole)] == [len(one) for one in parts(resumed)]


def parts(model: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def test_the_counters_of_a_checkpoint_are_used(tmp_path: Path) -> None:
    whole = shared()
    trainer(whole, tmp_path, callback(), save_strategy="steps", save_steps=5).train()
    path = tmp_path / "checkpoint-5" / "trainer_state.json"
    content = json.loads(path.read_text())
    (held,) = content["stateful_callbacks"]["SharingCallback"]["attributes"]["handles"]
    assert held["steps"] == 5
    assert held["waited"] == 1
    held |= {"steps": 0, "waited": 0, "waiting": [0.0] * len(held["waiting"])}
    path.write_text(json.dumps(content))
    resumed = shared(1)
    trainer(resumed, tmp_path, callback()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert not same_bits(whole.parameters(), resumed.parameters())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model = shared()
    declare_ties(model)
    trainer(model, tmp_path, save_strategy="steps", save_steps=5).train()
    path = str(tmp_path / "checkpoint-5")
    with pytest.raises(TrainingError, match="at step 5 was written without SharingCallback"):
        trainer(shared(), tmp_path, callback()).train(resume_from_checkpoint=path)
    trainer(shared(), tmp_path / "b", callback(), save_strategy="steps", save_steps=5).train()
    path = str(tmp_path / "b" / "checkpoint-5")
    other = SharingCallback([Attach(ws.Proximal(2e-2, every=4), WHERE)])
    with pytest.raises(SpecError, match="The state of a hook has spec"):
        trainer(shared(), tmp_path, other).train(resume_from_checkpoint=path)
    with pytest.raises(TrainingError, match="state of 0 attached specs"):
        trainer(shared(), tmp_path, SharingCallback()).train(resume_from_checkpoint=path)


def test_an_optimizer_made_before_sharing_and_ties_undone_are_refused(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ws.share_(model, ws.Tie(rate=2), WHERE)
    run = trainer(model, tmp_path, callback())
    run.optimizer = optimizer
    with pytest.raises(OptimizerMismatch, match="trains nothing"):
        run.train()
    model = shared()
    layer = model.bert.encoder.layer[1].intermediate.dense
    layer.weight = nn.Parameter(layer.weight.detach() + 1)
    with pytest.raises(ModelChanged, match="no longer are"):
        trainer(model, tmp_path, callback()).train()


def test_what_transformers_says_without_declared_ties(tmp_path: Path) -> None:
    """A fact about transformers that `declare_ties` is for."""
    with pytest.raises(RuntimeError, match="shared tensors"):
        shared().save_pretrained(tmp_path)


def test_declared_ties_are_written_once_and_read_back_into_a_shared_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = shared()
    declared = declare_ties(model)
    assert set(declared) == {
        f"bert.encoder.layer.{layer}.intermediate.dense.{name}" for layer in (1, 3) for name in ("weight", "bias")
    }
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in held.values()) == ws.report(model).stored
    twin = shared(1)
    twin.load_state_dict(held)
    assert same_bits(model.parameters(), twin.parameters())


def test_what_unshare_leaves_is_read_by_from_pretrained(tmp_path: Path) -> None:
    model, words = shared(), Rows().words[:5]
    ws.unshare_(model)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(words).logits, model.eval()(words).logits)


def test_ties_of_the_class_stay_declared() -> None:
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    model = BertForMaskedLM(bert().config)
    before = dict(model._tied_weights_keys)
    assert before
    ws.share_(model, ws.Tie(rate=2), WHERE)
    declared = declare_ties(model)
    assert model._tied_weights_keys == before | declared
    assert BertForMaskedLM._tied_weights_keys == before


def test_without_a_plan_nothing_is_declared() -> None:
    model = bert()
    assert declare_ties(model) == {}
    assert "_tied_weights_keys" not in vars(model)


def test_specs_are_checked_when_it_is_made() -> None:
    with pytest.raises(SharingError, match="need specs with attach_"):
        SharingCallback([ws.Tie(rate=2)])
