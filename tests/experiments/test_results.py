"""Result files: what is written is what is read, and nothing else is."""

from dataclasses import replace
import json

import pytest

from weightshare.errors import ConfigError, FileError
from weightshare.experiments.studies.results import Result

RESULT = Result(
    paper="lin2022",
    table="table3",
    run="pretrained-mean",
    metric="top1",
    values=[75.0, 75.5],
    seeds=[0, 1],
    config={"rate": 2},
    environment={"python": "3"},
    seconds=[1.0, 2.0],
    paper_value=75.28,
    source="table 3",
)


def test_a_result_reads_back_and_its_file_states_what_follows_from_it(tmp_path):
    path = RESULT.write(tmp_path)
    assert path == tmp_path / "lin2022" / "table3" / "pretrained-mean.json"
    assert Result.read(path) == RESULT
    data = json.loads(path.read_text())
    assert data["mean"] == 75.25
    assert data["gap"] == pytest.approx(-0.03)
    assert data["spread"] == pytest.approx(0.5**0.5 / 2)


def test_one_seed_has_no_spread_and_no_paper_value_no_gap():
    single = replace(RESULT, values=[1.0], seeds=[0], seconds=[1.0], paper_value=None)
    assert (single.spread, single.gap) == (0.0, None)


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(ConfigError, match="as in a file name"):
        replace(RESULT, run=name)


def test_values_and_seeds_must_agree():
    with pytest.raises(ConfigError, match="2 values and 1 times for 2 seeds"):
        replace(RESULT, seconds=[1.0])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "weightshare.result/1"}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FileError):
        Result.read(tmp_path / "x.json")
