"""What is said of a model at first sight: it is what plans say, and the model is left as it was."""

from collections.abc import Callable
import json

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import ZOO, Case, chain, parametrized, tied_embedding, used_twice
import weightshare as ws
from weightshare.analysis.inspecting import inspect
from weightshare.analysis.inspection import Inspection
from weightshare.analysis.outlook import pattern
from weightshare.analysis.present import told
from weightshare.errors import SharingError, SpecError

PLANNED = {"ws": ws}


def kinds(found: Inspection) -> dict[str, tuple[str, ...]]:
    return {one.kind: one.names for one in found.already}


class Looped(nn.Module):
    """One layer in a loop, as ALBERT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Linear(3, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(4):
            x = torch.tanh(self.layer(x))
        return x


@pytest.mark.parametrize("make", ZOO.values())
def test_every_module_of_the_zoo_is_looked_at_and_left_alone(make: Callable[[], Case]) -> None:
    model, example = make()
    model.train()
    before, drawn = state(model), torch.get_rng_state()
    found = inspect(model, example)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert str(found).startswith(f"{type(model).__name__} stores {found.stored:,} numbers")
    assert json.loads(found.to_json())["stored"] == found.stored > 0
    assert sum(part.numbers for part in found.parts) == found.stored
    assert found.equal == sum(blocks.numbers for blocks in found.blocks) <= found.stored


@pytest.mark.parametrize("make", [make for name, make in ZOO.items() if name not in ("lazy",)])
def test_every_number_is_that_of_the_plan(make: Callable[[], Case]) -> None:
    model = make().model
    found = inspect(model)
    planned = [choice for choice in found.choices if choice.code.startswith(("ws.Tie", "ws.Templates", "ws.Codebook"))]
    assert any(choice.stored is not None for choice in planned)
    for choice in planned:
        spec, where = eval(choice.code, PLANNED), None if choice.where is None else list(choice.where)
        if choice.refused:
            with pytest.raises(SharingError) as error:
                ws.plan(model, spec, where)
            assert str(error.value) == choice.refused
        else:
            made = ws.plan(model, spec, where)
            assert (made.stored_after, found.stored) == (choice.stored, made.stored_before)


@pytest.mark.parametrize("name", ["chain", "tied_embedding", "shortcuts", "buffers", "recurrent", "stages", "encoder"])
def test_the_lines_for_what_to_do_next_run(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, step in enumerate(inspect(ZOO[name]().model).steps):
        model = ZOO[name]().model
        exec(step.lines, {"ws": ws, "torch": torch, "model": model})
        if number == 0:
            assert f"{ws.report(model).stored:,} numbers" in step.title


def test_norms_and_what_is_tied_stay_out_of_the_pattern() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList(ZOO["chain"]().model.blocks), "norms": nn.LayerNorm(5)})
    model["twin"] = model["blocks"][2].fc1
    found = inspect(model)
    tie = next(choice for choice in found.choices if choice.code == "ws.Tie(rate=2, fuse=ws.mean)")
    made = ws.plan(model, ws.Tie(rate=2, fuse=ws.mean), list(tie.where))
    items = {path for group in made.groups for path in group.items}
    assert not any("norm" in path for path in items)
    assert "blocks.0.fc1.weight" in items
    assert not {"blocks.2.fc1.weight", "twin.weight"} & items
    assert kinds(found)["one module"] == ("blocks.2.fc1", "twin")


def test_a_pattern_names_lists_that_are_deep_enough() -> None:
    model = ZOO["stages"]().model
    from weightshare.surgery.sites import sites

    found, groups = sites(model), ws.plan(model, ws.Tie(rate=1)).groups
    deep = [group for group in groups if len(group.items) > 2]
    globs = pattern(found, groups, deep)
    assert {path for group in ws.plan(model, ws.Tie(rate=3), list(globs)).groups for path in group.items} == {
        path for group in deep for path in group.items
    }


def test_what_is_shared_already_is_named() -> None:
    assert kinds(inspect(tied_embedding().model)) == {"one parameter": ("embed.weight", "head.weight")}
    assert kinds(inspect(used_twice().model)) == {"one module": ("once", "again")}
    assert kinds(inspect(Looped())) == {"runs several times": ("layer",)}
    assert [one.names for one in inspect(parametrized().model).already] == [(f"{i}.weight",) for i in range(4)]
    model = chain().model
    ws.share_(model, ws.Tie(rate=2), "blocks.*.fc1.weight")
    ws.share_(model, ws.Codebook(3), "stem")
    assert [one.kind for one in inspect(model).already] == ["tied by a plan", "made by a plan"]
    frozen = chain().model.requires_grad_(False).to("meta")
    assert [*kinds(inspect(frozen))] == ["on meta", "frozen"]


def tied_in_pairs() -> nn.Module:
    """A model whose author tied every second layer."""
    model = chain(depth=6).model
    for index in (1, 3, 5):
        model.blocks[index].fc1.weight = model.blocks[index - 1].fc1.weight
    return model


def test_ties_of_others_are_told_once_and_left_alone() -> None:
    found = inspect(tied_in_pairs())
    assert [row[:2] for row in told(found.already)] == [("one parameter", "blocks.*.fc1.weight")]
    assert told(found.already)[0][2].startswith("3 groups of 2 paths: ")
    assert f"numbers and reads {found.logical:,}, " in found.lead
    tie = next(choice for choice in found.choices if choice.axis == "depth")
    assert tie.where == ("blocks.*", "!*norm*", "!blocks.*.fc1.weight")
    planned = {
        path for group in ws.plan(tied_in_pairs(), ws.Tie(rate=2), list(tie.where)).groups for path in group.items
    }
    assert {path.rpartition(".fc")[2] for path in planned} == {"1.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize(
    ("spec", "kind"), [(ws.Tie(rate=2), "tied by a plan"), (ws.Templates(2), "made by a plan"), (ws.Tie(rate=4), "")]
)
def test_what_repeats_and_is_shared_is_not_proposed_again(spec, kind: str) -> None:
    model = chain(depth=4, width=31).model
    ws.share_(model, spec, ["blocks.*.fc1.weight", "blocks.*.fc2.weight"])
    found = inspect(model)
    depth = [choice for choice in found.choices if choice.axis == "depth"]
    assert [choice.refused.partition(":")[0] for choice in depth] == ["What repeats is shared already"]
    assert depth[0].refused.endswith("What is left are norms and biases.")
    assert kind in {row[0] for row in told(found.already)} | {""}
    assert not any("Tie" in step.lines or "Templates" in step.lines for step in found.steps)


def test_a_layer_in_a_loop_is_said_to_be_shared() -> None:
    found = inspect(Looped())
    assert found.lead.endswith(
        "what repeats is shared already. 'layer' runs 4 times in a pass, with the same weights each time."
    )
    (depth,) = (choice for choice in found.choices if choice.axis == "depth")
    assert depth.refused == "What repeats is shared already: layer, runs several times."


def test_nothing_that_takes_more_on_file_is_proposed() -> None:
    model = chain(depth=4, width=31).model
    ws.share_(model, ws.Tie(rate=2), "blocks.*")
    found = inspect(model)
    coded = [choice for choice in found.choices if "Codebook" in choice.code and not choice.refused]
    assert all(choice.file > found.file for choice in coded)
    assert not any("Codebook" in step.lines for step in found.steps)


def test_a_similarity_of_one_is_explained() -> None:
    examples = torch.randn(23, 7)
    stream = nn.Sequential(*(Added() for _ in range(3)))
    text = str(inspect(stream, examples))
    assert "All are 0.99 or more: what tells the examples apart is the same behind every block" in text
    assert "The inputs are random" not in text
    assert "The inputs are random and few, so this says little" in str(inspect(stream)).replace("\n", " ")
    constant = inspect(nn.Sequential(*(Added() for _ in range(3))), torch.ones(5, 7))
    assert "nan: a block gives the same for all examples" in str(constant)


class Added(nn.Module):
    """A block with a shortcut, as it is before training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(7, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-3 * self.inner(x)


class Turned(nn.Module):
    """A linear layer of one's own, as GPT-2 has it."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(wide, wide)), nn.Parameter(torch.zeros(wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def test_layers_of_a_class_of_ones_own_are_named_for_a_codebook() -> None:
    model = nn.Sequential(*(Turned(47) for _ in range(3)))
    found = inspect(model)
    books = [choice for choice in found.choices if "Codebook" in choice.code]
    assert [choice.where for choice in books] == [("*", "!*.bias")] * 2
    assert [choice.stored for choice in books] == [3 * (values + 47) for values in (16, 256)]
    (step,) = (step for step in found.steps if "Codebook" in step.lines)
    exec(step.lines.partition("\noptimizer")[0], {"ws": ws, "model": model})
    assert ws.report(model).stored == books[1].stored


def test_a_rate_says_which_lists_are_deep_enough() -> None:
    found = inspect(ZOO["stages"]().model)
    deep = next(choice for choice in found.choices if "rate=4" in choice.code)
    assert f"{deep.code}: in {deep.where[0]} alone" in " ".join(str(found).split())


def test_a_reason_for_one_block_names_it() -> None:
    model = nn.Sequential(*(nn.Linear(wide, 3) for wide in (2, 3, 3)))
    reason = "block '0' differs from its siblings in parameter names, shapes or module types"
    assert inspect(model).left_out("depth")[reason][:2] == ["0.weight", "0.bias"]


def test_two_parameters_in_one_memory_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(model[0].weight.data)
    assert kinds(inspect(model)) == {"same memory": ("0.weight", "1.weight")}


def test_without_parameters_there_is_nothing_to_share() -> None:
    found = inspect(nn.Sequential(nn.ReLU(), nn.Flatten()))
    assert (found.stored, found.choices) == (0, ())
    assert str(found) == "Sequential has no parameters: there is nothing to share."


@pytest.mark.parametrize("model", [nn.Linear(7, 5), nn.LSTM(7, 11, 3)])
def test_one_layer_says_why_nothing_repeats(model: nn.Module) -> None:
    found = inspect(model)
    assert found.lead.endswith("no block is equal to another.")
    (depth,) = (choice for choice in found.choices if choice.axis == "depth")
    assert "in no repeated block" in depth.refused
    assert "in no repeated block" in str(found)


def test_random_weights_are_told_from_alike_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(61, 61) for _ in range(5)))
    assert "independent random numbers" in str(inspect(model))
    with torch.no_grad():
        model[3].weight.add_(model[1].weight)
    found = inspect(model)
    (one,) = found.alike
    assert "independent random numbers" not in str(found)
    assert one.closest[:2] == ("1", "3")
    wanted = nn.functional.cosine_similarity(model[1].weight.flatten(), model[3].weight.flatten(), dim=0)
    assert one.closest[2] == pytest.approx(wanted.item(), abs=1e-6)


def test_large_weights_are_drawn_from_and_nearly_right() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(701, 701, bias=False) for _ in range(2)))
    with torch.no_grad():
        model[1].weight.mul_(0.5).add_(model[0].weight)
    (one,) = inspect(model).alike
    assert one.numbers == 2**18 < 701**2
    wanted = nn.functional.cosine_similarity(*(layer.weight.flatten() for layer in model), dim=0).item()
    assert one.closest[2] == pytest.approx(wanted, abs=0.005)


def test_given_batches_say_what_blocks_compute() -> None:
    model = chain().model
    batches = [torch.randn(11, 3) for _ in range(3)]
    found = inspect(model, batches=batches)
    from weightshare.depth.cka import cka

    assert torch.equal(found.activations.values, cka(model, model, batches).values)
    with pytest.raises(SpecError, match="got one tensor, need a list"):
        inspect(model, batches=batches[0])


def test_convolutions_and_local_layers_say_what_they_would_store() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3))
    example = torch.randn(1, 3, 11, 13)
    space = {c.code: c for c in inspect(model, example).choices if c.axis == "space"}
    ws.localize_(model, example)
    stored = sum(p.numel() for p in model.parameters())
    assert space["ws.localize_(model, example_input)"].stored == stored
    space = {c.code: c for c in inspect(model, example).choices if c.axis == "space"}
    assert space["ws.fold(model)"].stored == sum(p.numel() for p in ws.fold(model).parameters())
