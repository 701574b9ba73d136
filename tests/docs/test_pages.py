"""The pages of docs/ say what is so: their code runs, their YAML is a configuration, what they name is there."""

import re
import runpy

import pytest
import torch

from tests.support import ROOT
from weightshare.space.local import LocallyConnected2d
from weightshare.training.recipe import RunConfig, strict

NAMES = ("values", "space", "depth", "templates", "data")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
SNIPPETS = {"values": 1, "space": 4, "depth": 5, "templates": 3, "data": 1}
every_page = pytest.mark.parametrize("page", NAMES)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def names_after_running(page):
    """What the page's code leaves, its snippets run in order."""
    names = {}
    snippets = blocks(page, "python")
    assert len(snippets) == SNIPPETS[page]
    for snippet in snippets:
        exec(compile(snippet, f"{page}.md", "exec"), names)
    return names


def test_the_code_on_values_runs():
    names = names_after_running("values")
    assert names["clusters"].shape == names["model"].fc1.weight.shape
    assert names["handle"].steps == 3


def test_the_code_on_space_runs(capsys):
    names = names_after_running("space")
    assert names["handle"].sleeps == 3  # two epochs of three steps, and once more
    assert type(names["plain"].conv1) is LocallyConnected2d
    assert type(names["layer"].weight) is torch.Tensor  # made from templates
    assert "whole model" in capsys.readouterr().out


def test_the_code_on_depth_runs(capsys):
    names = names_after_running("depth")
    assert names["plan"].stored_after <= 0.75 * names["plan"].stored_before
    assert "linear CKA" in capsys.readouterr().out


def test_the_code_on_templates_runs(capsys):
    names = names_after_running("templates")
    assert names["loops"].output_error < 1e-6
    assert names["loops"].removed == 4
    assert repr(names["small"].layer2).startswith("Looped(\n  0 → 3 × (1)\n")
    assert names["record"].history.steps == (0, 1, 2, 3)
    assert "|cos| of coefficients" in capsys.readouterr().out


def test_the_code_on_data_runs():
    names = names_after_running("data")
    assert names["seen"].shape == (1437 % 128, 1, 8, 8)
    assert torch.equal(names["targets"], names["labels"])


CONFIGURED = {
    "data": lambda config: (config.data, config.prepare.cut, config.train.augment.flip) == ("tiny-imagenet", 48, True),
    "values": lambda config: [entry.strength for entry in config.train.regularise] == [1e-3, 1e-4],
    "space": lambda config: (config.train.sleep[0].every, config.localise[0].start) == (1, "draw"),
    "templates": lambda config: (config.share[0].templates, config.train.regularise[0].strength) == (2, 0.1),
    "depth": lambda config: (config.train.distil.hidden, config.share[0].fuse) == (1.0, "mean"),
}


@every_page
def test_the_yaml_is_a_configuration(page):
    import yaml

    (snippet,) = blocks(page, "yaml")
    assert CONFIGURED[page](strict(RunConfig, yaml.safe_load(snippet)))


@every_page
def test_tests_and_modules_that_it_names_are_there(page):
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGES[page])
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    folders = "space|values|depth|kernels|experiments|analysis|training"
    named = re.findall(rf"`(?:weightshare\.)?((?:{folders})\.[a-z_0-9]+)", PAGES[page])
    paths = [ROOT / "src" / "weightshare" / name.replace(".", "/") for name in named]
    assert [path for path in paths if not path.with_suffix(".py").is_file() and not path.is_dir()] == []


def test_modules_of_data_that_the_page_names_are_there():
    named = re.findall(r"`training\.data\.([a-z_]+)`", PAGES["data"])
    assert len(named) > 5
    source = ROOT / "src" / "weightshare" / "training" / "data"
    assert [name for name in named if not (source / f"{name}.py").is_file()] == []


@every_page
def test_links_and_pictures_lead_to_files(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


@every_page
def test_the_tables_are_those_of_the_committed_results(page):
    script = runpy.run_path(str(ROOT / "docs" / f"refresh_{page}.py"))
    assert script["filled"](PAGES[page]) == PAGES[page]


def test_the_page_on_machines_names_what_is_there():
    import yaml

    text = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    config = strict(RunConfig, yaml.safe_load(snippet))
    assert (config.strategy, config.timeout_minutes) == ("fsdp2", RunConfig("m").timeout_minutes)
    named = re.findall(r"`weightshare\.((?:training|files)\.[a-z_]+)", text)
    paths = [f"src/weightshare/{name.replace('.', '/')}.py" for name in named]
    paths += re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(paths) == 3
    assert [path for path in paths if not (ROOT / path).is_file()] == []
