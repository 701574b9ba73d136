"""The pages of docs/ say what is so: their YAML is a configuration, their tables are results."""

import re
import runpy

import pytest

from tests.support import ROOT
from weightshare.training.recipe import RunConfig, strict

NAMES = ("values", "space", "depth", "templates", "data")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
every_page = pytest.mark.parametrize("page", NAMES)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


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


@pytest.mark.parametrize("page", [*NAMES, "costs"])
def test_the_tables_are_those_of_the_committed_results(page):
    script = runpy.run_path(str(ROOT / "docs" / f"refresh_{page}.py"))
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert script["filled"](text) == text


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
