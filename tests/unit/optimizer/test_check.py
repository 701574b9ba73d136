"""`check`: an optimizer that does not fit the model any more is refused by name."""

import pytest
import torch
from torch import nn

from tests.zoo import chain, tied_embedding
import weightshare as ws
from weightshare.errors import ModelChanged, OptimizerMismatch, SpecError


def test_an_optimizer_made_after_sharing_is_fine() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    assert ws.check(torch.optim.SGD(model.parameters(), lr=0.1), model) is None
    assert ws.check(torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1)), model) is None


def test_entries_that_train_nothing_are_named() -> None:
    model, _ = chain()
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.1), lr=0.1)
    ws.share_(model, ws.Tie(slots=[0, 1, 1, 2, 3, 4]), "*.fc1.weight")
    with pytest.raises(OptimizerMismatch) as caught:
        ws.check(optimizer, model)
    message = str(caught.value)
    assert "group 0, entry 5 ('blocks.2.fc1.weight'), shape (7, 5) trains nothing" in message
    assert message.count("trains nothing") == 1
    assert "Make the optimizer after sharing" in message


def test_entries_without_names_are_numbered() -> None:
    model, _ = chain()
    optimizer = torch.optim.SGD(list(model.parameters()), lr=0.1)
    ws.share_(model, ws.Tie(rate=6), "*.fc1.weight")
    with pytest.raises(OptimizerMismatch, match=r"group 0, entry 10, shape \(7, 5\) trains nothing") as caught:
        ws.check(optimizer, model)
    assert str(caught.value).count("trains nothing") == 5


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_slot_with_two_entries_is_named() -> None:
    model, _ = tied_embedding()
    optimizer = torch.optim.SGD([*model.parameters(), model.head.weight], lr=0.1)
    with pytest.raises(OptimizerMismatch, match=r"trains 'embed\.weight' a second time, after group 0, entry 0"):
        ws.check(optimizer, model)


def test_a_slot_without_an_entry_is_named() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    others = [tensor for name, tensor in model.named_parameters() if name != "blocks.2.fc1.bias"]
    with pytest.raises(OptimizerMismatch, match=r"slot 'blocks\.2\.fc1\.bias' is in no group"):
        ws.check(torch.optim.SGD(others, lr=0.1), model)


def test_parts_of_a_model_that_no_plan_speaks_of_may_stay_out() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "blocks")
    assert ws.check(torch.optim.SGD(model.blocks.parameters(), lr=0.1), model) is None


def test_frozen_slots_may_stay_out() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    model.blocks.requires_grad_(False)
    assert ws.check(torch.optim.SGD(model.head.parameters(), lr=0.1), model) is None


def test_a_wrapper_is_looked_into() -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    model, _ = chain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert ws.check(Wrapper(optimizer), model) is None
    ws.share_(model, ws.Tie(rate=2))
    with pytest.raises(OptimizerMismatch):
        ws.check(Wrapper(optimizer), model)


def test_an_optimizer_of_another_model_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1)
    with pytest.raises(OptimizerMismatch, match="group 0, entry 1, shape"):
        ws.check(optimizer, chain().model)


def test_an_optimizer_is_refused_after_its_tensors_were_replaced() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    ws.retie_(model)
    with pytest.raises(OptimizerMismatch, match="trains nothing"):
        ws.check(optimizer, model)


def test_a_long_list_of_problems_is_cut() -> None:
    model, _ = chain()
    optimizer = torch.optim.SGD(list(model.parameters()), lr=0.1)
    ws.share_(model, ws.Tie(rate=6))
    with pytest.raises(OptimizerMismatch, match="and 10 more"):
        ws.check(optimizer, model)


def test_arguments_in_the_other_order_are_named() -> None:
    model, _ = chain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=r"check\(Sequential, SGD\): the optimizer comes first, then the model"):
        ws.check(model, optimizer)
    with pytest.raises(SpecError, match=r"got SGD, need an nn\.Module"):
        ws.check(optimizer, optimizer)


def test_ties_that_have_come_undone_are_named() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.weight")
    model.blocks[1].fc1.weight = nn.Parameter(torch.zeros(7, 5))
    model.blocks[3].fc2.weight = nn.Parameter(torch.zeros(5, 7))
    with pytest.raises(ModelChanged, match=r"'blocks\.1\.fc1\.weight' and 'blocks\.0\.fc1\.weight'; ") as caught:
        ws.check(torch.optim.SGD(model.parameters(), lr=0.1), model)
    message = str(caught.value)
    assert "'blocks.3.fc2.weight' and 'blocks.2.fc2.weight' were one parameter and no longer are" in message
    assert "retie_(model)" in message


def test_what_is_said_of_undone_ties_helps() -> None:
    """Either way out that the message names leads to a model that is fine."""
    for mend in (lambda model: ws.retie_(model, compare=False), ws.unshare_):
        model, _ = chain()
        ws.share_(model, ws.Tie(rate=6))
        for block in model.blocks[1:]:
            block.fc1.weight = nn.Parameter(torch.zeros(7, 5))
        with pytest.raises(ModelChanged, match="; and 1 more pairs were one parameter"):
            ws.check(torch.optim.SGD(model.parameters(), lr=0.1), model)
        mend(model)
        assert ws.check(torch.optim.SGD(model.parameters(), lr=0.1), model) is None
