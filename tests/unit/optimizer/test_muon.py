"""Muon for matrices, AdamW for the rest: what goes where, and that each slot is stepped once."""

import pytest
import torch
from torch import nn

from tests.contract.specs import SPECS
from tests.unit.optimizer.test_kinds import entries, lone, made, steps_alike
from tests.zoo import chain, tied_embedding
import weightshare as ws
from weightshare.depth.transform import LoRA
from weightshare.errors import NoMatch, SpecError
from weightshare.optimizer import muon_groups


def names(groups: list[dict]) -> set[str]:
    return {name for group in groups for name in group["param_names"]}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("spec", ["halves", "random thirds, mean", "back, strided"])
def test_both_step_each_slot_once_like_tensors_alone(spec: str) -> None:
    model, example = made(spec)
    matrices, others = muon_groups(ws.param_groups(model, weight_decay=0.1), model)
    assert names(matrices) == {name for name, one in model.named_parameters() if "blocks" in name and one.ndim == 2}
    muon, adamw = torch.optim.Muon(matrices, lr=0.1), torch.optim.AdamW(others, lr=0.1)
    ws.check([muon, adamw], model)
    steps_alike(model, example, muon, torch.optim.Muon(lone(matrices), lr=0.1))
    steps_alike(model, example, adamw, torch.optim.AdamW(lone(others), lr=0.1))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "clusters"])
def test_every_parameter_is_in_one_of_the_two(spec: str) -> None:
    model, _ = made(spec)
    groups = ws.param_groups(model, weight_decay=0.1)
    only = [name for name, one in model.named_parameters() if one.ndim == 2 and "weightshare_banks" not in name]
    matrices, others = muon_groups(groups, model, where=[only[-1]])
    assert names(matrices) == {only[-1]}
    assert names(matrices) | names(others) == names(groups)
    assert len(entries(torch.optim.SGD([*matrices, *others]))) == len(entries(torch.optim.SGD(groups)))
    assert all(group["params"] for group in [*matrices, *others])


def test_a_model_whose_matrices_are_all_made_from_codebooks_has_none() -> None:
    model, _ = made("clusters")
    with pytest.raises(SpecError, match="no trainable matrix"):
        muon_groups(ws.param_groups(model, 0.1), model)


def test_settings_of_groups_stay() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    matrices, _ = muon_groups(ws.param_groups(model, 0.1, layer_decay=0.5, lr=0.8), model)
    assert {group["weight_decay"] for group in matrices} == {0.1}
    assert len({group["lr"] for group in matrices}) == 3  # one for each pair of blocks


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (ws.Tie(rate=2, own=LoRA(2)), "weightshare_banks.*"),
        (ws.Templates(2), "weightshare_banks.*coefficients"),
        (ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted)), "weightshare_banks.*"),
        (ws.Codebook(3), "blocks.*.fc1.weight"),
    ],
)
def test_what_weights_are_made_of_is_refused_by_name(spec: ws.Tie, where: str) -> None:
    model, _ = chain()
    ws.share_(model, spec, "blocks.*.weight")
    with pytest.raises((SpecError, NoMatch), match=r"no matrix that a layer applies|matches no parameter"):
        muon_groups(ws.param_groups(model, 0.1), model, where)


def test_embeddings_go_to_the_others_also_where_a_head_reads_them() -> None:
    model, _ = tied_embedding()
    ws.share_(model, ws.Tie(rate=2), "layers")
    matrices, others = muon_groups(ws.param_groups(model, 0.1), model)
    assert "embed.weight" in names(others)
    assert names(matrices) == {f"layers.{layer}.{name}.weight" for layer in (0, 2) for name in ("fc1", "fc2")}
    with pytest.raises(SpecError, match=r"names 'embed\.weight'"):
        muon_groups(ws.param_groups(model, 0.1), model, "head.weight")


def test_groups_of_another_model_and_models_without_matrices_are_refused() -> None:
    (one, _), (other, _) = chain(), chain()
    with pytest.raises(SpecError, match="does not read"):
        muon_groups(ws.param_groups(one, 0.1), other)
    flat = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    with pytest.raises(SpecError, match="no trainable matrix in a repeated block"):
        muon_groups(ws.param_groups(flat, 0.1), flat)
    (matrices, _) = muon_groups(ws.param_groups(flat, 0.1), flat, "*.weight")
    assert names(matrices) == {"0.weight", "1.weight"}
