"""docs/space.md says what is so: its code runs, its configuration is one, what it names is there."""

import re
import runpy

import torch

from tests.support import ROOT
from weightshare.space.local import LocallyConnected2d
from weightshare.training.recipe import RunConfig, strict

PAGE = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_code_runs_in_order(capsys):
    names = {}
    assert len(blocks("python")) == 4
    for snippet in blocks("python"):
        exec(compile(snippet, "space.md", "exec"), names)
    assert names["handle"].sleeps == 3  # two epochs of three steps, and once more
    assert type(names["plain"].conv1) is LocallyConnected2d
    assert type(names["layer"].weight) is torch.Tensor  # made from templates
    assert "whole model" in capsys.readouterr().out


def test_the_yaml_is_a_configuration():
    import yaml

    (snippet,) = blocks("yaml")
    config = strict(RunConfig, yaml.safe_load(snippet))
    assert (config.train.sleep[0].every, config.localise[0].start) == (1, "draw")


def test_tests_and_modules_that_it_names_are_there():
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(tests) > 6
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    named = re.findall(r"`(?:weightshare\.)?((?:space|kernels|experiments|analysis)\.\w+)", PAGE)
    assert len(named) > 8
    files = [ROOT / "src" / "weightshare" / f"{name.replace('.', '/')}.py" for name in named]
    assert [str(path) for path in files if not path.is_file()] == []


def test_links_and_pictures_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE) if "://" not in target]
    assert len(targets) > 3
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_the_tables_are_those_of_the_committed_results():
    script = runpy.run_path(str(ROOT / "docs" / "refresh_space.py"))
    assert script["filled"](PAGE) == PAGE
