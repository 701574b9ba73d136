"""The page on sweeps says what is so: its YAML is a sweep, its table that of the results, its links lead somewhere."""

import json
import re
import runpy

from tests.support import ROOT
from weightshare.experiments.studies.results import Result
from weightshare.training.recipe import strict
from weightshare.training.sweep import read_sweep
from weightshare.training.sweep_plan import Samples, SweepConfig, planned

PAGE = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
RESULTS = ROOT / "results" / "sweep" / "torus"


def test_the_yaml_is_a_sweep_of_eighteen_runs():
    import yaml

    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    runs = planned(strict(SweepConfig, yaml.safe_load(text)))
    assert len({run.name for run in runs}) == 18
    assert [len(run.config.share) for run in runs[:6:3]] == [0, 1]
    (drawn,) = re.findall(r"`samples: (\{.*?\}, seed: 0\})`", PAGE)
    assert len(strict(Samples, yaml.safe_load(drawn)).settings()) == 20


def test_the_results_are_those_of_the_example_and_of_twelve_runs_that_finished_once():
    runs = planned(read_sweep(ROOT / "examples" / "torus_sweep.yaml"))
    results = [Result.read(path) for path in sorted(RESULTS.glob("strength-*.json"))]
    assert len(runs) == len(results) == 12
    entries = [result.config["train"]["regularise"][0] for result in results]
    held = {(entry["strength"], entry["rewind"]) for entry in entries}
    assert held == {tuple(run.values.values()) for run in runs}
    killed = json.loads((RESULTS / "killed.json").read_text(encoding="utf-8"))
    assert {name: row[2] for name, row in killed["runs"].items()} == {run.name: 1 for run in runs}
    assert len(killed["killed"]) >= 3


def test_the_table_is_that_of_the_committed_results():
    assert runpy.run_path(str(ROOT / "docs" / "refresh_sweep.py"))["filled"](PAGE) == PAGE


def test_links_and_files_that_it_names_are_there():
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE) if "://" not in target]
    named = re.findall(r"`((?:tests|examples|results)/[\w/.]+)`", PAGE)
    assert len(targets) > 1
    assert len(named) > 4
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
    assert [path for path in named if not (ROOT / path).is_file()] == []
