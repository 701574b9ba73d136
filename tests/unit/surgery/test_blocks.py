"""Blocks: which sites play one role in several layers of a network."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.zoo import buffers, chain, layer_used_twice, parameter_list, shortcuts, stages
import weightshare as ws
from weightshare.depth.cka import cka
from weightshare.surgery.blocks import Place, blocks_glob, places
from weightshare.surgery.layers import layer_numbers
from weightshare.surgery.sites import sites


def roles(model: nn.Module) -> dict[str, str | None]:
    return {path: place.role if isinstance(place, Place) else None for path, place in places(sites(model)).items()}


def test_a_path_is_split_at_its_block() -> None:
    model, _ = chain()
    place = places(sites(model))["blocks.3.fc1.weight"]
    assert isinstance(place, Place)
    assert (place.before, place.index, place.after) == ("blocks", 3, "fc1.weight")


def test_sites_outside_of_blocks_have_no_place() -> None:
    model, _ = chain()
    alone = [path for path, role in roles(model).items() if role is None]
    assert alone == ["stem.weight", "stem.bias", "head.weight", "head.bias"]


def test_the_outermost_index_with_an_equal_sibling_is_the_block() -> None:
    block = lambda: nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(3, 3) for _ in range(2)])})  # noqa: E731
    model = nn.ModuleList([block() for _ in range(5)])
    assert set(roles(model).values()) == {f"*.heads.{h}.{name}" for h in (0, 1) for name in ("weight", "bias")}


def test_an_outer_index_without_an_equal_sibling_is_no_block() -> None:
    model, _ = stages()
    found = roles(model)
    assert found["0.0.3.fc1.weight"] == "0.0.*.fc1.weight"
    assert found["1.0.2.fc1.weight"] == "1.0.*.fc1.weight"
    assert found["2.0.1.fc1.weight"] == "2.0.*.fc1.weight"
    assert found["1.1.weight"] is None


def test_equal_stages_are_the_blocks_themselves() -> None:
    stage = lambda: nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)))  # noqa: E731
    assert roles(nn.Sequential(stage(), stage()))["1.2.weight"] == "*.2.weight"


def test_conv_and_norm_of_one_width_in_a_flat_list_are_two_roles() -> None:
    model, _ = buffers()
    found = places(sites(model))
    conv, norm = found["0.bias"], found["1.bias"]
    assert isinstance(conv, Place)
    assert isinstance(norm, Place)
    assert (conv.role, conv.after) == (norm.role, norm.after)
    assert conv.kind != norm.kind


def test_modules_of_equal_shapes_and_other_types_are_two_roles() -> None:
    model = nn.Sequential(*(kind(7) for _ in range(3) for kind in (nn.LayerNorm, nn.BatchNorm1d)))
    kinds = {place.kind for place in places(sites(model)).values() if isinstance(place, Place)}
    assert len(kinds) == 2


def test_a_first_block_with_a_shortcut_is_no_sibling() -> None:
    model, _ = shortcuts()
    found = roles(model)
    assert [path for path, role in found.items() if role is None] == [
        f"{stage}.0.{name}.weight" for stage in (0, 1) for name in ("conv1", "conv2", "shortcut")
    ]
    assert found["1.2.conv1.weight"] == "1.*.conv1.weight"


def test_the_parts_of_an_outlier_are_not_taken_for_blocks() -> None:
    """A first block with a table of its own: its query and key are parts of one block, not two layers."""

    def block(extra: int) -> nn.Module:
        return nn.ModuleDict(
            {"heads": nn.ModuleList([nn.Linear(3, 3) for _ in range(4)]), "table": nn.Linear(2, extra)}
        )

    model = nn.ModuleList([block(5), block(7), block(7)])
    found = places(sites(model))
    assert found["0.heads.0.weight"] == "block '0' differs from its siblings in parameter names, shapes or module types"
    assert roles(model)["1.heads.0.weight"] == "*.heads.0.weight"


def test_entries_of_a_parameter_list_are_blocks() -> None:
    model, _ = parameter_list()
    assert set(roles(model).values()) == {"matrices.*"}


def test_a_layer_used_twice_has_the_place_of_its_first_name() -> None:
    model, _ = layer_used_twice()
    place = places(sites(model))["1.weight"]
    assert isinstance(place, Place)
    assert place.index == 1


def test_numbers_of_blocks_are_read_as_numbers() -> None:
    model, _ = chain(depth=11)
    assert [p.index for p in places(sites(model)).values() if isinstance(p, Place) and p.after == "fc1.bias"] == list(
        range(11)
    )


class Block(nn.Module):
    """As of a perceptron: two layers and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(torch.relu(self.fc1(x)))


def stack(name: str, depth: int = 12) -> nn.Sequential:
    """Blocks with names in an `nn.Sequential`, as torchvision's vision transformer has them."""
    return nn.Sequential(OrderedDict((name.format(index), Block()) for index in range(depth)))


def encoder(name: str, depth: int = 12) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"stem": nn.Linear(3, 5), "layers": stack(name, depth), "head": nn.Linear(5, 2)})


@pytest.mark.parametrize("name", ["encoder_layer_{}", "block1-{}", "layer{}"])
def test_blocks_with_names_in_a_sequential_are_a_list(name: str) -> None:
    model, numbers = encoder(name), encoder("{}")
    found = places(sites(model))
    place = found[f"layers.{name.format(10)}.fc1.weight"]
    list_path = "layers." + name.format("*")
    assert (place.before, place.index, place.after) == (list_path, 10, "fc1.weight")
    assert (place.role, place.block) == (f"{list_path}.fc1.weight", f"layers.{name.format(10)}")
    assert isinstance(found["stem.weight"], str)
    specs = [
        ws.Tie(rate=5),
        ws.Tie(rate=3, order=ws.strided),
        ws.Templates(3),
        ws.Tie(slots={list_path: [0] * 6 + [1] * 6}),
    ]
    plain = [*specs[:3], ws.Tie(slots={"layers": [0] * 6 + [1] * 6})]
    for spec, other in zip(specs, plain, strict=True):
        one, two = ws.plan(model, spec), ws.plan(numbers, other)
        assert [group.assignment for group in one.groups] == [group.assignment for group in two.groups]
        assert one.stored_after == two.stored_after < one.stored_before
    assert "0–11" in str(ws.plan(model, ws.Tie(rate=2)))
    assert layer_numbers(model) == {
        path.replace("layers.", "layers." + name.format(""), 1): layers
        for path, layers in layer_numbers(numbers).items()
    }


def test_names_of_a_sequential_that_is_the_model_are_read_too() -> None:
    model = stack("layer_{}", 4)
    assert roles(model)["layer_3.fc2.bias"] == "layer_*.fc2.bias"
    x = torch.randn(11, 5)
    assert cka(model, model, [x]).rows == tuple(f"layer_{index}" for index in range(4))
    plan = ws.suggest(model, 0.5)
    plan.apply_(model)
    assert ws.report(model).stored == plan.stored_after
    before = model(x)
    assert torch.allclose(ws.fold(model)(x), before)


def test_names_that_end_in_numbers_are_roles_elsewhere() -> None:
    assert set(roles(Block()).values()) == {None}
    heads = nn.ModuleDict({"head_0": nn.Linear(3, 5), "head_1": nn.Linear(3, 5)})
    assert set(roles(heads).values()) == {None}


def test_two_runs_of_names_are_two_lists() -> None:
    layers = [(f"{kind}{index}", nn.Linear(5, 5)) for index in range(3) for kind in ("a", "b")]
    assert set(roles(nn.Sequential(OrderedDict(layers))).values()) == {
        f"{kind}*.{name}" for kind in "ab" for name in ("weight", "bias")
    }


def test_a_glob_for_a_list_of_blocks() -> None:
    assert [blocks_glob(before) for before in ("blocks", "", "encoder.layer_*")] == ["blocks.*", "*", "encoder.layer_*"]
