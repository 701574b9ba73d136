"""Running a network on an example while its layers are listened to."""

import pytest
import torch
from torch import nn

from weightshare.errors import NoMatch, SpecError
from weightshare.surgery.watch import first_tensor, modules_at, run, watching


class Sum(nn.Module):
    """Of all that it is given."""

    def forward(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return a.sum() if b is None else a.sum() + b.sum()


def test_an_example_is_a_tensor_a_sequence_or_a_mapping() -> None:
    a, b = torch.ones(2, 3), torch.ones(5)
    model = Sum()
    assert run(model, a) == 6
    assert run(model, (a, b)) == run(model, [a, b]) == run(model, {"b": b, "a": a}) == 11
    with pytest.raises(SpecError, match="the example input is of type int: need a tensor, a sequence"):
        run(model, 3)


def test_flags_are_as_before_whether_it_ran_or_not() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    model[1].training = False
    found = run(model, torch.ones(4, 2))
    assert not found.requires_grad
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(SpecError, match=r"^Sequential cannot run on the batch: .*shape") as refused:
        run(model, torch.ones(4, 5), "the batch")
    assert "labels" not in str(refused.value)
    assert [module.training for module in model.modules()] == [True, True, False, True]


@pytest.mark.parametrize("kind", [tuple, list])
def test_inputs_with_labels_are_told_from_inputs(kind: type) -> None:
    with pytest.raises(SpecError, match=r"given\. If this is a batch of inputs and labels, give the inputs alone\.$"):
        run(nn.Identity(), kind((torch.ones(2), torch.ones(2))), "the batch")
    with pytest.raises(SpecError) as refused:
        run(nn.Identity(), kind((torch.ones(2),) * 3))
    assert "labels" not in str(refused.value)


def test_layers_are_heard_until_the_end() -> None:
    model = nn.Sequential(nn.Linear(2, 3), Sum())
    heard = []
    layers = {"lin": model[0], "sum": model[1]}
    with watching(model, layers, lambda path, given, output: heard.append((path, len(given), output.shape))):
        run(model, torch.ones(4, 2))
        model[1](b=torch.ones(1), a=torch.ones(1))
    run(model, torch.ones(4, 2))
    assert heard == [("lin", 1, (4, 3)), ("sum", 1, ()), ("sum", 2, ())]


def test_the_first_tensor_of_what_a_layer_gives() -> None:
    one, other = torch.ones(1), torch.ones(2)
    for given in (one, (one, other), [one], {"x": one, "y": other}):
        assert first_tensor(given) is one
    for given in ((), [], {}, None, "text", (None, one), {"x": None}, [[one]]):
        assert first_tensor(given) is None


def test_modules_by_glob_or_type() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert list(modules_at(model, "1*")) == ["1", "1.0", "1.1"]
    assert list(modules_at(model, ["1.1", "0"])) == ["0", "1.1"]
    assert list(modules_at(model, nn.Linear)) == ["0", "1.0"]
    with pytest.raises(NoMatch, match=r"^'2' matches no module\. There are: 0, 1, 1\.0, 1\.1\.$"):
        modules_at(model, ["0", "2"])
    with pytest.raises(NoMatch, match=r"Conv2d.* matches no module of Sequential"):
        modules_at(model, nn.Conv2d)
    with pytest.raises(NoMatch, match="matches no module of Sequential"):
        modules_at(model, [])
