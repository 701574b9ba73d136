"""The papers' numbers: the package has those of all tables, as in fixtures that were made from the texts alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from weightshare.depth.templates import Templates
from weightshare.depth.tie import Tie
from weightshare.errors import ConfigError
from weightshare.experiments.printed import Printed, lin2022, pogodin2021, savarese2019, shakerinava2023, table
from weightshare.experiments.studies.savarese2019_cifar import BESIDE, CIFAR
from weightshare.models import convmixer, wrn, wrn50
from weightshare.models.by_name import import_timm
from weightshare.models.wrn50 import BLOCKS
from weightshare.verbs import plan

FIXTURES = Path(__file__).parent / "printed"
MODULES = {
    module.__name__.rpartition(".")[2]: module for module in (pogodin2021, lin2022, savarese2019, shakerinava2023)
}
PAPERS = pytest.mark.parametrize("paper", MODULES)

# fmt: off
CELLS = {
    "pogodin2021": {
        "table1": 75, "table2": 18, "table3": 45, "table4": 75, "table5": 75, "table6": 25, "table7": 40, "table8": 40,
        "table9": 30, "table10": 48, "table11": 48, "table12": 34,
    },
    "lin2022": {"table1": 48, "table2": 15, "table3": 18, "fig3": 3, "fig4a": 4, "fig4b": 4, "fig4c": 4},
    "savarese2019": {"cifar": 33, "imagenet": 12, "cutout": 36},
    "shakerinava2023": {"torus": 2, "cifar10": 1},
}
# fmt: on
"""How many cells each table has; a cell of several rows counts in each, and a dash does not count."""

COUNTED = {
    "savarese2019": {("cutout", "wrn-28-10", "params"), ("cutout", "swrn-28-6-2", "params")},
}
"""Cells that our own count alone contradicts."""

SETS = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "TinyImageNet": "tiny-imagenet", "ImageNet": "imagenet"}
COLUMNS = {
    "top-1": "top1",
    "diff": "top1-diff",
    "top-1 diff": "top1-diff",
    "top-5": "top5",
    "top-5 diff": "top5-diff",
    "learning rate": "lr",
    "weight decay": "weight_decay",
}
METRICS = {
    "pogodin2021": {f"{a} {b}": f"{data}/{metric}" for a, data in SETS.items() for b, metric in COLUMNS.items()},
    "lin2022": {
        "Params (M)": "params",
        "FLOPs (G)": "flops",
        **dict.fromkeys(("ImgNet Acc(%)", "Top-1 Acc (%)", "accuracy"), "top1"),
    },
    "savarese2019": {
        "Params": "params",
        "C-10+": "cifar10/error",
        "C-100+": "cifar100/error",
        "Top-1": "imagenet/top1-error",
        "Top-5": "imagenet/top5-error",
        "Training Time": "gpu_days",
        "Test Error": "error",
    },
    "shakerinava2023": {"accuracy": "accuracy"},
}
"""Our names of the papers' columns."""

# fmt: off
ROWS = {
    "pogodin2021": {
        "conv": "conv", "LC": "lc", "LC - 4 reps": "lc-reps4", "LC - 8 reps": "lc-reps8", "LC - 16 reps": "lc-reps16",
        "LC - ws(1)": "lc-ws1", "LC - ws(10)": "lc-ws10", "LC - ws(100)": "lc-ws100",
        "0.5x ResNet18 / conv / -": "conv", "0.5x ResNet18 / LC / -": "lc",
        **{f"0.5x ResNet18 / LC / {every}": f"lc-ws{every}" for every in (1, 10, 100)},
        "0.5x ResNet18 (1st layer conv) / LC / -": "first-conv",
        **{f"0.5x ResNet18 (1st layer conv) / LC / {every}": f"first-conv-ws{every}" for every in (1, 10, 100)},
    },
    "lin2022": {
        **{
            f"{printed} / {fixed}": f"{ours}{more}"
            for printed, ours in (("DeiT-Ti", "deit-ti"), ("DeiT-S", "deit-s"))
            for fixed, more in (("12 / - / -", ""), ("6 / - / -", "-depth6"), ("4 / - / -", "-depth4"))
        },
        **{
            f"WS-{printed} / 12 / {fusion} / {rate}": f"ws-{ours}-{rate}{more}"
            for printed, ours in (("DeiT-Ti", "deit-ti"), ("DeiT-S", "deit-s"))
            for fusion, more in (("-", ""), ("Mean", "-mean"), ("Scalar Weighted Mean", "-scalar"))
            for rate in (2, 3)
        },
        "ConvMixer / × × × ×": "unshared", "WS-ConvMixer / ✓ ✓ ✓ ✓": "shared-bn-bias-dw-pw",
        "WS-ConvMixer / × ✓ ✓ ✓": "shared-bias-dw-pw", "WS-ConvMixer / × × ✓ ✓": "shared-dw-pw",
        "WS-ConvMixer / × × × ✓": "shared-pw",
        "ConvMixer / Regular / ×": "unshared", "WS-ConvMixer / Regular / ×": "tied-2",
        "WS-ConvMixer / Regular / Choose First": "random-first-2", "WS-ConvMixer / Regular / Mean": "random-mean-2",
        "WS-ConvMixer / Pretrained / Choose First": "first-2", "WS-ConvMixer / Pretrained / Mean": "fused-2",
        "original": "unshared", **{f"share rate {rate}": f"rate-{rate}" for rate in (2, 4, 8)},
    },
    "savarese2019": {
        "ResNeXt-29 16x64": "resnext-29-16x64", "DenseNet 100-24": "densenet-100-24",
        "DenseNet 190-40": "densenet-190-40", "WRN 28-10": "wrn-28-10-plain", "WRN 28-10*": "wrn-28-10",
        **{f"SWRN 28-{size}*": f"swrn-28-{size}" for size in ("10", "10-2", "14", "14-2", "18", "18-2")},
        "WRN 50-2": "wrn-50-2", "SWRN 50-2": "swrn-50-2", "DenseNet-264": "densenet-264", "ResNet-200": "resnet-200",
        "NASNet-A [8] / 3.3": "nasnet-a-3.3", "NASNet-A [8] / 27.6": "nasnet-a-27.6",
        **{f"AmoebaNet-B [4] / {size}": f"amoebanet-b-{size}" for size in (2.8, 13.7, 34.9)},
        "DARTS [2]": "darts", "SNAS [6]": "snas", "ENAS [3]": "enas", "WRN 28-10 (baseline with cutout)": "wrn-28-10",
        **{f"SWRN 28-{size} (ours)": f"swrn-28-{size}" for size in ("6-2", "10-2", "14-2")},
    },
    "shakerinava2023": {"MLP baseline": "plain", "weight-sharing regularization": "regularised"},
}
# fmt: on
"""Our names of the papers' rows."""


@dataclass(frozen=True)
class Place:
    table: str
    row: str
    metric: str


def fixture(paper: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{paper}.json").read_text(encoding="utf-8"))


def place(paper: str, name: str, row: str, cell: str) -> Place:
    return Place(name, ROWS[paper][row], METRICS[paper][cell])


def printed(paper: str) -> Iterator[tuple[Place, Any]]:
    """The cells of a fixture under our names."""
    for name, held in fixture(paper)["tables"].items():
        for row in held["rows"]:
            for cell, value in row["cells"].items():
                yield place(paper, name, row["row"], cell), value


def held(paper: str) -> Iterator[tuple[Place, Printed]]:
    """The cells of the package."""
    for name, rows in MODULES[paper].TABLES.items():
        for row, cells in rows.items():
            for metric, cell in cells.items():
                yield Place(name, row, metric), cell


@PAPERS
def test_every_printed_cell_is_held_and_no_other(paper):
    expected, found = list(printed(paper)), dict(held(paper))
    assert len(dict(expected)) == len(expected)  # no two cells of the fixture have one name
    assert {where: cell.word or cell.value for where, cell in found.items()} == dict(expected)


@PAPERS
def test_counts_of_cells(paper):
    rows = fixture(paper)["tables"]
    assert {name: sum(len(row["cells"]) for row in one["rows"]) for name, one in rows.items()} == CELLS[paper]
    assert {name: sum(len(cells) for cells in one.values()) for name, one in MODULES[paper].TABLES.items()} == CELLS[
        paper
    ]


def test_counts_of_papers():
    assert {paper: sum(counts.values()) for paper, counts in CELLS.items()} == {
        "pogodin2021": 553,
        "lin2022": 96,
        "savarese2019": 81,
        "shakerinava2023": 3,
    }
    assert {path.stem for path in FIXTURES.glob("*.json")} == set(CELLS)
    folder = Path(import_module("weightshare.experiments.printed").__file__ or "").parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(CELLS)


@PAPERS
def test_every_cell_says_where_it_stands_and_is_a_number_or_a_word(paper):
    for where, cell in held(paper):
        assert cell.source
        number = where.table.removeprefix("table").removeprefix("fig")
        assert number in cell.source or paper not in ("pogodin2021", "lin2022")
        assert (cell.value is None) == bool(cell.word)


@PAPERS
def test_what_disagrees_has_a_note_that_names_the_other_number(paper):
    disagreeing = {place(paper, one["table"], one["row"], one["cell"]): one for one in fixture(paper)["disagreements"]}
    cells = dict(held(paper))
    noted = {where for where, cell in cells.items() if cell.misprint}
    assert noted == set(disagreeing) | {Place(*where) for where in COUNTED.get(paper, ())}
    for where, one in disagreeing.items():
        assert cells[where].value == one["printed"]
        assert f"{one['other']}" in cells[where].misprint


def test_how_many_cells_disagree():
    assert {paper: len(fixture(paper)["disagreements"]) for paper in MODULES} == {
        "pogodin2021": 33,
        "lin2022": 16,
        "savarese2019": 1,
        "shakerinava2023": 0,
    }
    assert fixture("pogodin2021")["texts_differ"] == []  # the paper with its appendix, and the appendix by itself


@pytest.mark.parametrize(
    ("paper", "where"),
    [
        ("pogodin2021", "equation 27"),
        ("pogodin2021", "equation 57"),
        ("lin2022", "equation 1"),
        ("lin2022", "exactly P"),
        ("savarese2019", "one template per layer"),
        ("shakerinava2023", "average"),
    ],
)
def test_misprints_of_equations_and_claims_are_told(paper, where):
    assert MODULES[paper].MISPRINTS[where].endswith(".")


def test_what_is_printed_twice_is_the_same():
    tables = {
        name: {(row, metric): cell.value for row, cells in rows.items() for metric, cell in cells.items()}
        for name, rows in pogodin2021.TABLES.items()
    }
    assert tables["table1"] == tables["table4"]
    assert tables["table2"].items() < tables["table12"].items()


def test_differences_are_off_by_a_tenth_at_most():
    """They were rounded by themselves."""
    found = 0
    for name, rows in pogodin2021.TABLES.items():
        for row, cells in rows.items():
            for metric in [metric for metric in cells if metric.endswith("-diff")]:
                of = metric.removesuffix("-diff")
                difference = rows[row][of].number - rows["conv"][of].number
                assert cells[metric].number == pytest.approx(difference, abs=0.1 + 1e-9), (name, row, metric)
                found += 1
    assert found == 3 * 35 + 20 + 8 + 16


def test_sharing_costs_no_multiplication():
    """FLOPs of a shared network are those of the unshared one, in every table."""
    for rows in (lin2022.TABLES["table2"], lin2022.TABLES["table3"]):
        assert {cells["flops"].value for cells in rows.values()} == {5.03}
    for size in ("deit-ti", "deit-s"):
        shared = {
            cells["flops"].value for row, cells in lin2022.TABLES["table1"].items() if row.startswith(f"ws-{size}-")
        }
        assert shared == {lin2022.TABLES["table1"][size]["flops"].value}


def test_grids_and_final_settings_are_those_of_the_appendix():
    told = fixture("pogodin2021")
    expected = {}
    kinds = {"conv": "conv", "LC": "lc", "LC (1st layer conv)": "first-conv"}
    sets = {"CIFAR10/100": ("cifar10", "cifar100"), "TinyImageNet": ("tiny-imagenet",), "ImageNet": ("imagenet",)}
    for grid in told["grids"]:
        for data in sets[grid["data"]]:
            expected[data, kinds[grid["connectivity"]]] = (tuple(grid["learning rate"]), tuple(grid["weight decay"]))
    assert expected == pogodin2021.GRIDS
    assert {
        ROWS["pogodin2021"][one["row"]]: (one["learning rate"], one["weight decay"]) for one in told["final"]
    } == pogodin2021.IMAGENET_RATES


def stored(net, templates=None):
    if templates is None:
        return sum(parameter.numel() for parameter in net.parameters())
    return plan(net, Templates(templates, within="model"), net.repeated).stored_after


def fits(count: int, cell: Printed, decimals: int) -> bool:
    return round(count / 1e6, decimals) == cell.value


@pytest.mark.parametrize("row", [*CIFAR, *(f"{row}-cutout" for row in BESIDE)])
def test_parameters_of_the_poster_are_ours_or_have_a_note(row):
    name, decimals = ("cutout", 1) if row.endswith("-cutout") else ("cifar", 0)
    row = row.removesuffix("-cutout")
    kind, depth, width, *templates = row.removesuffix("-plain").split("-")
    with torch.device("meta"):
        net = wrn(int(depth), int(width))
    shared = int(templates[0]) if templates else (6 if kind == "swrn" else None)  # one template a layer
    cell = savarese2019.TABLES[name][row]["params"]
    count = stored(net, shared)
    assert fits(count, cell, decimals) != bool(cell.misprint)
    assert int(count / 1e6 * 10**decimals) / 10**decimals == cell.value  # they are cut


def test_parameters_of_the_posters_large_networks():
    """Rounded, not cut; each stage has its own number of templates, one a layer."""
    with torch.device("meta"):
        net = wrn50(2)
    plain = stored(net)
    plans = [
        plan(net, Templates(blocks - 1, within="model"), net.repeated(stage)) for stage, blocks in enumerate(BLOCKS, 1)
    ]
    shared = plain - sum(made.stored_before - made.stored_after for made in plans)
    assert plain < shared < plain + 1000  # coefficients
    rows = savarese2019.TABLES["imagenet"]
    assert fits(plain, rows["wrn-50-2"]["params"], 0)
    assert fits(shared, rows["swrn-50-2"]["params"], 0)


POINTWISE, DEPTHWISE = "blocks.*.pointwise.weight", "blocks.*.depthwise.weight"
BIASES = ["blocks.*.pointwise.bias", "blocks.*.depthwise.bias"]
NORMS = ["blocks.*.pointwise_norm", "blocks.*.depthwise_norm"]


def mixer():
    with torch.device("meta"):
        return convmixer(768, 32, 14, 3)


@pytest.mark.filterwarnings("ignore:.*[Nn]orm.*shared")
@pytest.mark.parametrize(
    ("row", "where"),
    [
        ("shared-bn-bias-dw-pw", [POINTWISE, DEPTHWISE, *BIASES, *NORMS]),
        ("shared-bias-dw-pw", [POINTWISE, DEPTHWISE, *BIASES]),
        ("shared-dw-pw", [POINTWISE, DEPTHWISE]),
        ("shared-pw", [POINTWISE]),
    ],
)
def test_parameters_of_spins_table_2_are_ours_or_have_a_note(row, where):
    cell = lin2022.TABLES["table2"][row]["params"]
    assert fits(plan(mixer(), Tie(rate=2), where).stored_after, cell, 2) != bool(cell.misprint)


def test_parameters_of_spins_tables_2_and_3_as_we_read_them():
    unshared, as_read = mixer(), plan(mixer(), Tie(rate=2), [POINTWISE, BIASES[0]]).stored_after
    assert fits(as_read, lin2022.TABLES["table2"]["shared-pw"]["params"], 2)
    for name in ("table2", "table3"):
        assert fits(stored(unshared), lin2022.TABLES[name]["unshared"]["params"], 1)
    everything = lin2022.TABLES["table2"]["shared-bn-bias-dw-pw"]["params"].value
    for row in ("tied-2", "random-first-2", "random-mean-2", "first-2", "fused-2"):
        cell = lin2022.TABLES["table3"][row]["params"]
        assert cell.value == everything
        assert "read as 11.02" in cell.misprint


@pytest.mark.slow  # timm
@pytest.mark.parametrize("row", lin2022.DEIT)
def test_parameters_of_spins_table_1(row):
    rate = int(row.split("-")[3]) if row.startswith("ws-") else 1
    size = {"ti": "tiny", "s": "small"}[row.removeprefix("ws-").split("-")[1]]
    depth = int(row.partition("depth")[2] or 12)
    with torch.device("meta"):
        net = import_timm().create_model(f"deit_{size}_patch16_224", depth=depth)
    count = plan(net, Tie(rate=rate), ["blocks.*.attn", "blocks.*.mlp"]).stored_after
    assert fits(count, lin2022.TABLES["table1"][row]["params"], 2)


def test_a_word_is_no_number():
    cell = lin2022.TABLES["table2"]["shared-bn-bias-dw-pw"]["top1"]
    assert cell == Printed(None, "table 2", word="Diverged")
    with pytest.raises(ConfigError, match="table 2 has a word there: got 'Diverged', need a number"):
        _ = cell.number


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="table 7, row 'conv': got 1 cells, need 2"):
        table("table 7", ("a", "b"), {"conv": (1.0,)})
    with pytest.raises(ConfigError, match=r"table 7 has no cell \('conv', 'c'\) of which"):
        table("table 7", ("a",), {"conv": (1.0,)}, {("conv", "c"): "Wrong."})
