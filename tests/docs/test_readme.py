"""The README says what is so: its snippets run, its output is real, its links lead somewhere."""

from pathlib import Path
import re
import shlex

import pytest

from weightshare.cli import main
from weightshare.experiments.studies import digits
from weightshare.experiments.studies.results import Result
from weightshare.models.by_name import import_timm
from weightshare.training.recipe import RunConfig, read_yaml, strict

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    import_timm()
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(blocks("python")) == 9
    for snippet in blocks("python"):
        exec(compile(snippet, "README.md", "exec"), names)
    assert (tmp_path / "small.safetensors").is_file()
    assert "blocks.*.pointwise.weight" in capsys.readouterr().out


def test_the_first_snippet_is_short():
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 15


def test_console_output_is_what_the_command_prints(capsys):
    sessions = [block for block in blocks("console") if block.startswith("$ ")]
    assert sessions
    for session in sessions:
        command, _, shown = session.partition("\n")
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(command.removeprefix("$ weightshare ")))
        assert stopped.value.code == 0
        assert capsys.readouterr().out == shown


def test_the_yaml_is_a_configuration(tmp_path):
    (snippet,) = blocks("yaml")
    (tmp_path / "run.yaml").write_text(snippet)
    config = strict(RunConfig, read_yaml(tmp_path / "run.yaml"))
    assert config.share[0].spec


def test_the_demo_table_is_that_of_the_committed_results():
    results = [Result.read(ROOT / "results" / "lin2022" / "digits" / f"{name}.json") for name in digits.ROWS]
    (shown,) = blocks("text")
    assert shown.rstrip("\n") == digits.table(results)


def test_links_into_the_repository_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(targets) >= 4
    assert [target for target in targets if not (ROOT / target).is_file()] == []
