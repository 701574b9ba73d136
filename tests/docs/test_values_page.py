"""docs/values.md says what is so: its code runs, its configuration is one, what it names is there."""

import re
import runpy

from tests.support import ROOT
from weightshare.training.recipe import RunConfig, strict

PAGE = (ROOT / "docs" / "values.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_code_runs():
    (snippet,) = blocks("python")
    names = {}
    exec(compile(snippet, "values.md", "exec"), names)
    assert names["clusters"].shape == names["model"].fc1.weight.shape
    assert names["handle"].steps == 3


def test_the_yaml_is_a_configuration():
    import yaml

    (snippet,) = blocks("yaml")
    config = strict(RunConfig, yaml.safe_load(snippet))
    assert [entry.strength for entry in config.train.regularise] == [1e-3, 1e-4]


def test_tests_and_modules_that_it_names_are_there():
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(tests) > 6
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    modules = re.findall(r"`(?:weightshare\.)?(values\.[\w.]+?)(?:\.[A-Z]\w+)?`", PAGE)
    assert len(modules) > 5
    files = [ROOT / "src" / "weightshare" / f"{name.replace('.', '/')}.py" for name in modules]
    assert [str(path) for path in files if not path.is_file()] == []


def test_links_and_pictures_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_the_tables_are_those_of_the_committed_results():
    script = runpy.run_path(str(ROOT / "docs" / "refresh_values.py"))
    assert script["filled"](PAGE) == PAGE
