"""The page on sweeps says what is so: its YAML is a sweep, and its links lead somewhere."""

import re

from tests.support import ROOT
from weightshare.training.recipe import strict
from weightshare.training.sweep_plan import Samples, SweepConfig, planned

PAGE = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")


def test_the_yaml_is_a_sweep_of_eighteen_runs():
    import yaml

    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    runs = planned(strict(SweepConfig, yaml.safe_load(text)))
    assert len({run.name for run in runs}) == 18
    assert [len(run.config.share) for run in runs[:6:3]] == [0, 1]
    (drawn,) = re.findall(r"`samples: (\{.*?\}, seed: 0\})`", PAGE)
    assert len(strict(Samples, yaml.safe_load(drawn)).settings()) == 20


def test_links_and_files_that_it_names_are_there():
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE) if "://" not in target]
    named = re.findall(r"`((?:tests|examples|results)/[\w/.]+)`", PAGE)
    assert len(targets) > 0
    assert len(named) > 4
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
    assert [path for path in named if not (ROOT / path).is_file()] == []
