"""Plans as JSON: read back they are equal; anything else is refused with our error and runs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
import json
from typing import Any

import pytest

from tests.support import python
from tests.zoo import SHAREABLE, Case, chain
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.fuse import Fusion
from weightshare.depth.topology import Order
from weightshare.errors import FileError

SPECS = [
    ws.Tie(rate=2),
    ws.Tie(rate=1.5, order=ws.strided, fuse=ws.mean, spread=topology.middle),
    ws.Tie(rate=3, order=ws.random(seed=7), fuse=ws.weighted_mean([0.5, 1.0, 2.0, 0.1, -1.0, 3.0])),
    ws.Tie(slots=[0, 1, 0, 2, 2, 1]),
]


@pytest.mark.parametrize("spec", SPECS)
def test_round_trip(spec: ws.Tie) -> None:
    plan = ws.plan(chain().model, spec, ["blocks", "head"])
    assert ws.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_round_trip_of_the_zoo(make: Callable[[], Case]) -> None:
    plan = ws.plan(make().model, ws.Tie(rate=2))
    again = ws.Plan.from_json(plan.to_json())
    assert again == plan
    assert str(again) == str(plan)
    again.apply_(make().model)


def test_it_is_plain_json() -> None:
    data = json.loads(ws.plan(chain().model, ws.Tie(rate=2)).to_json(), parse_constant=pytest.fail)
    assert data["format"] == "weightshare.plan/1"
    assert data["groups"][0]["slots"] == [0, 0, 1, 1, 2, 2]


@dataclass(frozen=True, repr=False)
class Mirrored(Order):
    """An order of the user's own."""

    shift: int = 0

    def __call__(self, layers: int, slots: int) -> list[int]:
        return [min(layer, layers - 1 - layer) % slots for layer in range(layers)]


def test_a_part_of_your_own_is_read_once_it_is_imported() -> None:
    plan = ws.plan(chain().model, ws.Tie(rate=2, order=Mirrored(shift=3)), "*.fc1.weight")
    again = ws.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.spec.order == Mirrored(shift=3)
    assert again.groups[0].assignment.labels.tolist() == [0, 1, 2, 2, 1, 0]


def test_a_class_of_your_own_does_not_take_the_place_of_ours() -> None:
    code = """
from dataclasses import dataclass
import weightshare as ws
from weightshare.depth.fuse import Fusion
from torch import nn

text = ws.plan(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), ws.Tie(rate=2, fuse=ws.mean)).to_json()

@dataclass(frozen=True, repr=False)
class Mean(Fusion):
    def __call__(self, weights, layers, depth):
        return weights[0]

print(ws.Plan.from_json(text).spec.fuse == ws.mean)
"""
    assert python(code).split() == ["True"]


def changed(**entries: Any) -> str:
    return json.dumps(json.loads(ws.plan(chain().model, ws.Tie(rate=2)).to_json()) | entries)


def with_group(**entries: Any) -> str:
    group = {"name": "g", "items": ["a", "b"], "shape": [2, 3], "dtype": "float32", "slots": [0, 0]}
    return changed(groups=[group | entries])


def with_spec(**fields: Any) -> str:
    return changed(spec={"Tie": fields})


HOSTILE = {
    "empty": "",
    "no JSON": "{",
    "null": "null",
    "a number": "3",
    "a list": "[]",
    "a text": '"format"',
    "no entries": "{}",
    "deep": "[" * 100_000,
    "deep spec": changed(spec=None).replace('"spec": null', '"spec": ' + '{"Tie": ' * 5000 + "{}" + "}" * 5000),
    "huge number": "9" * 5000,
    "another format": changed(format="weightshare.plan/2"),
    "no format": changed(format=None),
    "infinite count": changed(stored_before=float("inf")),
    "NaN count": changed(bytes_before=float("nan")),
    "count as text": changed(stored_before="many"),
    "no count": changed(stored_before=None),
    "left out: no pair": changed(left_out=[["a"]]),
    "left out: a number": changed(left_out=3),
    "spec: none": changed(spec=None),
    "spec: two": changed(spec={"Tie": {"rate": 2}, "Mean": {}}),
    "spec: unknown": changed(spec={"os.system": {"command": "true"}}),
    "spec: dunder": changed(spec={"__import__": {"name": "os"}}),
    "spec: abstract": changed(spec={"Spec": {}}),
    "spec: no spec": changed(spec={"Mean": {}}),
    "spec: no fields": changed(spec={"Tie": [2]}),
    "spec: unknown field": with_spec(rate=2, own="x"),
    "spec: dunder field": with_spec(rate=2, __class__="x"),
    "spec: no rate": with_spec(),
    "spec: rate is a text": with_spec(rate="2"),
    "spec: rate is infinite": with_spec(rate=float("inf")),
    "spec: rate is huge": with_spec(rate=10**400),
    "spec: order is a fusion": with_spec(rate=2, order={"Mean": {}}),
    "spec: order is a spec": with_spec(rate=2, order={"Tie": {"rate": 2}}),
    "spec: seed is a list": with_spec(rate=2, order={"Random": {"seed": [1]}}),
    "spec: third is a text": with_spec(rate=2, spread={"Third": {"which": "0"}}),
    "spec: weights are a number": with_spec(rate=2, fuse={"WeightedMean": {"weights": 5}}),
    "spec: weights are texts": with_spec(rate=2, fuse={"WeightedMean": {"weights": ["a"]}}),
    "spec: weights are NaN": with_spec(rate=2, fuse={"WeightedMean": {"weights": [float("nan")]}}),
    "spec: slots with a hole": with_spec(slots=[0, 2]),
    "spec: slots are huge": with_spec(slots=[0, 2**62]),
    "spec: slots are a part": with_spec(slots={"First": {}}),
    "groups: a text": changed(groups="groups"),
    "groups: none": changed(groups=None),
    "groups: numbers": changed(groups=[3]),
    "group: empty": changed(groups=[{}]),
    "group: more items": with_group(items=["a", "b", "c"]),
    "group: an item twice": with_group(items=["a", "a"]),
    "group: no items": with_group(items=[], slots=[]),
    "group: a negative count": changed(stored_before=-1),
    "group: a parameter in two": changed(groups=json.loads(changed())["groups"] * 2),
    "group: a slot without reader": with_group(slots=[0, 2]),
    "group: a negative slot": with_group(slots=[0, -1]),
    "group: a huge slot": with_group(slots=[0, 2**62]),
    "group: a slot beyond int64": with_group(slots=[0, 10**30]),
    "group: an infinite slot": with_group(slots=[0, float("inf")]),
    "group: a text as slot": with_group(slots=[0, "x"]),
    "group: unknown dtype": with_group(dtype="float33"),
    "group: a dtype that is none": with_group(dtype="nn"),
    "group: the class of dtypes": with_group(dtype="dtype"),
    "group: an infinite shape": with_group(shape=[float("inf")]),
    "group: a negative shape": with_group(shape=[-2, 3]),
    "group: a huge shape": with_group(shape=[10**30]),
    "group: no shape": with_group(shape=None),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(FileError):
        ws.Plan.from_json(text)


@pytest.mark.parametrize("text", [None, 3, b"\xff\xfe\x00", ["{}"]])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(FileError):
        ws.Plan.from_json(text)


def test_a_cut_text_is_refused_at_every_length() -> None:
    text = ws.plan(chain().model, ws.Tie(rate=2)).to_json()
    assert len(text) > 100
    for length in range(len(text) - 1):
        with pytest.raises(FileError):
            ws.Plan.from_json(text[:length])


def test_an_entry_that_is_missing_is_named() -> None:
    data = json.loads(changed())
    for name in data:
        with pytest.raises(FileError, match=name):
            ws.Plan.from_json(json.dumps({key: value for key, value in data.items() if key != name}))


def test_what_is_wrong_with_a_plan_is_said() -> None:
    for text, message in {
        HOSTILE["another format"]: "has format 'weightshare.plan/2', this version reads 'weightshare.plan/1'",
        HOSTILE["group: a parameter in two"]: "^The plan has no group, or a parameter in two groups, or a negative",
        HOSTILE["group: a huge shape"]: "shape .*, which no tensor has",
    }.items():
        with pytest.raises(FileError, match=message):
            ws.Plan.from_json(text)


def test_counts_of_nothing_are_counts() -> None:
    assert ws.Plan.from_json(changed(stored_before=0, bytes_before=0)).bytes_before == 0


def test_reading_imports_nothing() -> None:
    code = """
import json, sys
from torch import nn
import weightshare as ws

data = json.loads(ws.plan(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), ws.Tie(rate=2)).to_json())
before = set(sys.modules)
for dtype in ("onnx", "_inductor", "_dynamo", "_export"):
    data["groups"][0]["dtype"] = dtype
    try:
        ws.Plan.from_json(json.dumps(data))
    except ws.SharingError:
        pass
print(sorted(set(sys.modules) - before))
"""
    assert python(code).strip() == "[]"


def test_a_fusion_of_your_own_needs_no_field() -> None:
    @dataclass(frozen=True, repr=False)
    class LastOne(Fusion):
        """The weight of the last reader."""

        def __call__(self, weights: Any, layers: Any, depth: int) -> Any:
            return weights[-1].clone()

    plan = ws.plan(chain().model, ws.Tie(rate=2, fuse=LastOne()))
    assert ws.Plan.from_json(plan.to_json()) == plan
    assert repr(plan.spec) == "Tie(rate=2, fuse=last_one)"
