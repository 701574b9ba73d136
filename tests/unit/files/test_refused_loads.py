"""A file that does not fit a model is refused by name, and the model is what it was to the last bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support import same_bits, state
from tests.zoo import buffers, chain, tied_embedding
import weightshare as ws
from weightshare.depth.fuse import Fusion
from weightshare.depth.transform import LoRA
from weightshare.errors import FileError
from weightshare.files import archive
from weightshare.planning import applied_plans


def check_refused(path: Path, model: nn.Module, message: str) -> None:
    before = state(model)
    with pytest.raises(FileError, match=message):
        ws.load(path, model)
    assert state(model) == before


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def deeper() -> nn.Module:
    return chain(depth=7).model


def shallower() -> nn.Module:
    return chain(depth=5).model


def wider() -> nn.Module:
    return chain(hidden=13).model


def double() -> nn.Module:
    return chain().model.double()


def meta() -> nn.Module:
    return chain().model.to("meta")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (deeper, r"lacks 'blocks\.6\.norm\.weight' \(5,\), which the model has"),
        (shallower, r"holds 'blocks\.5\..*' \(\d.*\), which the model lacks"),
        (wider, r"'blocks\.0\.fc1\.weight' in .* is \(7, 5\) torch\.float32, the model has \(13, 5\)"),
        (double, r"'stem\.weight' in .* torch\.float32, the model has \(5, 3\) torch\.float64"),
        (meta, r"Cannot load 'stem\.weight': the model is on the meta device"),
    ],
)
def test_another_structure(make: Callable[[], nn.Module], message: str, shared: Path) -> None:
    check_refused(shared, make(), message)


def test_a_buffer_of_another_shape(tmp_path: Path) -> None:
    model = buffers().model
    ws.save(model, tmp_path / "m.safetensors")
    model[7].running_mean = torch.zeros(11)
    check_refused(tmp_path / "m.safetensors", model, r"'7\.running_mean' in .* is \(7,\)")


def test_a_model_that_ties_what_the_file_holds_as_different_numbers(tmp_path: Path) -> None:
    ws.save(chain().model, tmp_path / "m.safetensors")
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1.weight")
    message = r"ties 'blocks\.1\.fc1\.weight' to 'blocks\.0\.fc1\.weight', .* stores them apart"
    check_refused(tmp_path / "m.safetensors", model, message)


def test_a_model_with_a_tied_head_and_a_file_without(tmp_path: Path) -> None:
    untied = tied_embedding().model
    untied.head.weight = nn.Parameter(torch.randn(13, 5))
    ws.save(untied, tmp_path / "m.safetensors")
    check_refused(tmp_path / "m.safetensors", tied_embedding().model, r"ties 'head\.weight' to 'embed\.weight'")


def test_a_model_that_ties_what_the_file_stores_apart_is_refused_though_the_numbers_agree(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    plain = ws.fold(model)
    ws.unshare_(model)
    ws.save(model, tmp_path / "m.safetensors")
    check_refused(tmp_path / "m.safetensors", plain, "stores them apart")


def plans_of(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}, {}


@pytest.mark.parametrize(
    "plans",
    [
        3,
        "text",
        [3],
        [["", 3]],
        [["", "{}"]],
        [[""]],
        [["nowhere", ws.plan(chain().model, ws.Tie(rate=2)).to_json()]],
        [["", ws.plan(chain(depth=7).model, ws.Tie(rate=2)).to_json()]],
        [["", ws.plan(chain().model, ws.Tie(rate=2)).to_json()]],
    ],
    ids=["number", "text", "no pair", "no text", "no plan", "short", "no part", "other names", "not tied"],
)
def test_a_well_made_file_with_a_plan_that_does_not_fit(plans: object, tmp_path: Path) -> None:
    model, _ = chain()
    archive.write(tmp_path / "m.safetensors", *plans_of(model), {"kind": "model", "plans": plans})
    check_refused(tmp_path / "m.safetensors", model, "m.safetensors")


def test_an_alias_that_the_model_cannot_have(tmp_path: Path) -> None:
    model, _ = chain()
    tensors, _ = plans_of(model)
    del tensors["head.bias"]
    archive.write(tmp_path / "m.safetensors", tensors, {"head.bias": "stem.bias"}, {"kind": "model", "plans": []})
    check_refused(tmp_path / "m.safetensors", model, r"'head\.bias' in .* is \(5,\)")


def test_an_interruption_changes_nothing(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightshare.surgery.edit import Transaction

    model, _ = chain()
    before = state(model)

    def interrupted(self: Transaction, name: str, value: object, at: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ws.load(shared, model)
    assert state(model) == before


def test_a_frozen_layer_among_the_readers_of_a_slot(shared: Path) -> None:
    """One parameter cannot be trained and frozen; loading must not choose in silence."""
    model, _ = chain()
    model.blocks[1].requires_grad_(False)
    before = state(model)
    with pytest.raises(ws.SharingError, match="requires_grad"):
        ws.load(shared, model)
    assert state(model) == before


def lora(fuse: Fusion, rank: int = 2) -> nn.Module:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2, fuse=fuse, own=LoRA(rank)), "*.fc1.weight")
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: lora(ws.through(ws.mean)), r"fuse=through\(mean\).* differ in fuse, first and through\(mean\)\. "),
        (lambda: lora(ws.first, rank=3), r"differ in own, LoRA\(rank=2\) and LoRA\(rank=3\)\. "),
        (lambda: lora(ws.mean, rank=3), r"differ in fuse, first and mean; own, LoRA\(rank=2\) and LoRA\(rank=3\)\. "),
    ],
)
def test_another_sharing_is_named_with_what_differs(make: Callable[[], nn.Module], said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ws.save(lora(ws.first), path)
    said = rf"not shared as this one is\. The file: Tie\(rate=2, own=LoRA\(rank=2\)\) where .*{said}"
    check_refused(path, make(), f"{said}Load it into a model that is not shared: load shares it as the file says")


def test_another_kind_or_place_of_sharing_is_named(shared: Path, tmp_path: Path) -> None:
    templates, _ = chain()
    ws.share_(templates, ws.Templates(2))
    check_refused(
        shared, templates, r"The file: Tie\(rate=2\) everywhere\. This model: Templates\(templates=2\) everywhere"
    )
    part, _ = chain()
    ws.share_(part, ws.Tie(rate=2, order=ws.strided), "*.fc1")
    ws.save(chain().model, tmp_path / "plain.safetensors")
    check_refused(
        tmp_path / "plain.safetensors", part, r"The file: not shared\. This model: .* not shared: share it then"
    )


def test_a_fusion_that_is_done_makes_no_difference(tmp_path: Path) -> None:
    """What a slot once started from is not stored: the model keeps its one plan, and reads what the file says."""
    for make in (lora, lambda fuse: shared_by(ws.Tie(rate=2, fuse=fuse))):
        model, other = make(ws.first), make(ws.mean)
        ws.save(model, tmp_path / "m.safetensors")
        ws.load(tmp_path / "m.safetensors", other)
        assert same_bits(other.parameters(), model.parameters())
        assert [plan.spec.fuse for _, plan in applied_plans(other)] == [ws.mean]
        assert str(ws.report(other)) == str(ws.report(model))


def shared_by(spec: ws.Tie) -> nn.Module:
    model, _ = chain()
    ws.share_(model, spec)
    return model
