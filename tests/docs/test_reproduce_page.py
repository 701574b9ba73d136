"""The page on the papers says what is so: its code and commands run, what it names is there."""

import re
import shlex

import pytest
import yaml

from tests.support import ROOT
from weightshare.cli import main
from weightshare.experiments.reproduce import environment

PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, and a tree without changes, whose results count."""
    clean = {**environment(), "commit": "0" * 40, "dirty": False}
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: clean)
    monkeypatch.setattr("weightshare.experiments.reproduce.environment", lambda: clean)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_runs(capsys):
    names = {}
    (code,) = blocks("python")
    exec(compile(code, "reproduce.md", "exec"), names)
    assert {row for row, _ in names["found"]} == {"stage-2", "stage-4"}
    assert names["pages"][0].is_file()
    assert capsys.readouterr().out.endswith("2 of 6 cells\n")


def test_commands_run_one_after_another(elsewhere, capsys):
    (deltas,) = blocks("yaml")
    (elsewhere / "faster.yaml").write_text(deltas, encoding="utf-8")
    commands = [shlex.split(line, comments=True) for block in blocks("console") for line in block.splitlines()]
    assert len(commands) == 5
    for program, *arguments in [*commands[1:], commands[0]]:
        assert program == "weightshare"
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
    assert re.search("lin2022/figure1 .* all", capsys.readouterr().out)
    folder = elsewhere / "results" / "shakerinava2023" / "torus"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json")) == [
        "smoke+faster/cnn.json",
        "smoke/cnn.json",
        "smoke/plain.json",
    ]
    assert yaml.safe_load(deltas).keys() == {"train.lr", "train.epochs"}
    assert (elsewhere / "site" / "index.html").is_file()


def test_what_it_names_is_there():
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(tests) == 3
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    named = re.findall(r"`experiments\.([a-z_0-9]+)`", PAGE)
    source = ROOT / "src" / "weightshare" / "experiments"
    assert len(named) > 8
    assert [one for one in named if not (source / f"{one}.py").is_file() and not (source / one).is_dir()] == []
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
