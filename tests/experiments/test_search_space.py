"""The figure of the search space: counts at its ends, and the files that are committed."""

import json

import pytest

from tests.support import ROOT
from weightshare.cli import main
from weightshare.errors import ConfigError
from weightshare.experiments.studies.figures import figure
from weightshare.experiments.studies.search_space import search_space


def test_the_figure_is_drawn_and_its_numbers_are_those_that_are_committed(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["figure", "search-space", "--out", str(tmp_path)])
    assert "35.42 / 35.42" in capsys.readouterr().out  # log10 of 32!, every layer a stage of its own
    written = tmp_path / "lin2022" / "fig1" / "search-space.json"
    assert written.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(written.read_text()) == json.loads(
        (ROOT / "results" / "lin2022" / "fig1" / "search-space.json").read_text()
    )


def test_the_paper_counts_more_from_three_layers_on():
    found = search_space(12, (2, 3, 12))
    for stage, exact in found["exact"].items():
        assert len(exact) == 12
        assert all(paper >= ways for paper, ways in zip(found["paper"][stage], exact, strict=True))
        assert found["paper"][stage][-1] > exact[-1]
    assert found["exact"][12] == [slots**12 for slots in range(1, 13)]


def test_it_has_no_inputs(tmp_path):
    with pytest.raises(ConfigError, match="input_mean=1"):
        figure("search-space", tmp_path, input_mean=1)
