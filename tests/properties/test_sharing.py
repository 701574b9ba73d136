"""Share, unshare, fold, save and load, on random networks and specs."""

from pathlib import Path
import tempfile

from hypothesis import given
from torch import nn

from tests.properties.strategies import Sharing, sharings
from tests.support import bits, output, same_bits, state
import weightshare as ws


@given(sharings())
def test_unsharing_keeps_outputs_and_gives_everyone_a_parameter(drawn: Sharing) -> None:
    model = drawn.network.build()
    names = len(list(model.parameters()))
    plan = ws.share_(model, drawn.spec(), drawn.where)
    shared = output(model, drawn.network.example())
    assert len(list(model.parameters())) == names - sum(len(tie) - 1 for tie in plan.ties)
    ws.unshare_(model)
    assert bits(output(model, drawn.network.example())) == bits(shared)
    assert len({tensor.data_ptr() for tensor in model.parameters()}) == names


@given(sharings())
def test_sharing_again_changes_nothing_that_is_read(drawn: Sharing) -> None:
    """With `mean`: what was fused is equal already."""
    model = drawn.network.build()
    plan = ws.share_(model, drawn.spec(), drawn.where)
    before = output(model, drawn.network.example())
    ws.unshare_(model)
    again = ws.share_(model, drawn.spec(fuse=ws.mean), drawn.where)
    assert again.ties == plan.ties
    assert bits(output(model, drawn.network.example())) == bits(before)


@given(sharings())
def test_folding_keeps_outputs(drawn: Sharing) -> None:
    model = drawn.network.build()
    ws.share_(model, drawn.spec(), drawn.where)
    folded = ws.fold(model)
    assert bits(output(folded, drawn.network.example())) == bits(output(model, drawn.network.example()))
    assert ws.report(folded).stored == ws.report(model).stored


@given(sharings())
def test_a_plan_survives_json_and_planning_changes_nothing(drawn: Sharing) -> None:
    model = drawn.network.build()
    before = state(model)
    plan = ws.plan(model, drawn.spec(), drawn.where)
    assert state(model) == before
    assert ws.Plan.from_json(plan.to_json()) == plan
    assert str(ws.Plan.from_json(plan.to_json())) == str(plan)


@given(sharings())
def test_counts_of_the_plan_are_those_of_the_shared_model(drawn: Sharing) -> None:
    model = drawn.network.build()
    plan = ws.share_(model, drawn.spec(), drawn.where)
    assert plan.stored_after == sum(parameter.numel() for parameter in model.parameters())
    assert plan.bytes_after == sum(parameter.nbytes for parameter in model.parameters())


@given(sharings())
def test_saving_and_loading_gives_the_same_model(drawn: Sharing) -> None:
    model = drawn.network.build()
    other = ws.fold(model)
    nn.init.zeros_(next(other.parameters()))
    ws.share_(model, drawn.spec(), drawn.where)
    with tempfile.TemporaryDirectory() as folder:
        ws.save(model, Path(folder) / "m.safetensors")
        ws.load(Path(folder) / "m.safetensors", other)
    assert same_bits(other.state_dict().values(), model.state_dict().values())
    assert ws.report(other) == ws.report(model)
