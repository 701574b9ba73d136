"""Save, and load in a new process: outputs equal to the last bit, ties intact, for every order, spread and fusion."""

from pathlib import Path

import pytest
from safetensors.torch import load_model, save_file

from tests.parity.network import CASES, FUSIONS, ORDERS, RATE, SPREADS, example, labels, network
from tests.support import bits, output, python
import weightshare as ws

LOAD = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from tests.parity.network import network, example
from tests.support import bits, output
import weightshare as ws

folder = Path(sys.argv[1])
expected = load_file(folder / "outputs.safetensors")
found = {}
for path in sorted(folder.glob("case-*.safetensors")):
    model = ws.load(path, network(seed=7))
    groups = ws.report(model).groups
    found[path.stem] = {
        "outputs": bits(output(model, example())) == bits(expected[path.stem]),
        "intact": [group.intact for group in groups],
        "reads": sorted({group.labels for group in groups}),
        "parameters": len(list(model.parameters())),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What one new process found in the files of all cases, shared and folded."""
    import json

    folder = tmp_path_factory.mktemp("saved")
    outputs = {}
    for order, spread, fuse in CASES:
        model = network()
        ws.share_(model, ws.Tie(rate=RATE, order=ORDERS[order], spread=SPREADS[spread], fuse=FUSIONS[fuse]))
        for kind, made in (("shared", model), ("folded", ws.fold(model))):
            name = f"case-{order}-{spread}-{fuse}-{kind}"
            ws.save(made, folder / f"{name}.safetensors")
            outputs[name] = output(made, example())
    save_file(outputs, folder / "outputs.safetensors")
    return json.loads(python(LOAD, folder))


@pytest.mark.parametrize(("order", "spread", "fuse"), CASES)
def test_a_shared_model(order: str, spread: str, fuse: str, loaded: dict[str, dict[str, object]]) -> None:
    reads = labels(order, spread)
    assert loaded[f"case-{order}-{spread}-{fuse}-shared"] == {
        "outputs": True,
        "intact": [True] * 6,
        "reads": [list(reads)],
        "parameters": 4 + 6 * (max(reads) + 1),
    }


@pytest.mark.parametrize(("order", "spread", "fuse"), CASES)
def test_a_folded_model(order: str, spread: str, fuse: str, loaded: dict[str, dict[str, object]]) -> None:
    assert loaded[f"case-{order}-{spread}-{fuse}-folded"] == {
        "outputs": True,
        "intact": [],
        "reads": [],
        "parameters": 4 + 6 * (max(labels(order, spread)) + 1),
    }


@pytest.mark.parametrize("order", ORDERS)
def test_safetensors_loads_our_file_into_a_tied_model(order: str, tmp_path: Path) -> None:
    model, tied = network(), network(seed=7)
    ws.share_(model, ws.Tie(rate=RATE, order=ORDERS[order], fuse=ws.mean))
    ws.save(model, tmp_path / "m.safetensors")
    reads = labels(order, "uniform")
    for layer, slot in enumerate(reads):
        tied.blocks[layer] = tied.blocks[reads.index(slot)]
    load_model(tied, tmp_path / "m.safetensors")
    assert bits(output(tied, example())) == bits(output(model, example()))


def test_a_file_is_the_same_whatever_process_writes_it(tmp_path: Path) -> None:
    code = """
import sys
from tests.parity.network import network
import weightshare as ws
model = network()
ws.share_(model, ws.Tie(rate=2, order=ws.random(seed=3)))
ws.save(model, sys.argv[1])
"""
    model = network()
    ws.share_(model, ws.Tie(rate=2, order=ws.random(seed=3)))
    ws.save(model, tmp_path / "here.safetensors")
    python(code, tmp_path / "there.safetensors")
    held = [ws.tensors(tmp_path / f"{name}.safetensors") for name in ("here", "there")]
    assert held[0].keys() == held[1].keys()
    assert [bits(tensor) for tensor in held[0].values()] == [bits(held[1][name]) for name in held[0]]
