"""The examples: short, quick, quiet, and what they print is so."""

from collections.abc import Callable
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
from safetensors import safe_open
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BY_NAME = pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])


def run(example: Path, folder: Path) -> str:
    """Run an example in a fresh process and an empty folder, a warning being an error; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,  # a quarter of a minute on an idle core, minutes on a busy one that has no bfloat16
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, printed: str) -> int:
    """The one number with commas that a pattern finds."""
    (found,) = re.findall(pattern, printed, re.MULTILINE)
    return int(found.replace(",", ""))


def scores(printed: str) -> dict[str, tuple[float, int]]:
    """The lines `name: 12.3%, 1,234 numbers`: accuracy in percent and stored numbers."""
    rows = re.findall(r"^(.+): ([\d.]+)%, ([\d,]+) numbers$", printed, re.MULTILINE)
    return {name: (float(right), int(stored.replace(",", ""))) for name, right, stored in rows}


def check_vit(printed: str, folder: Path) -> None:
    """Half of the numbers, a file that holds each once, adapters that leave the rest alone, a merge that is exact."""
    found = scores(printed)
    assert list(found) == [
        "trained",
        "its average",
        "upside down",
        "with LoRA",
        "LoRA off, upright",
        "merged",
    ]
    accuracy = {name: right for name, (right, _) in found.items()}
    stored = {name: numbers for name, (_, numbers) in found.items()}

    before, after = number(r"^whole model +([\d,]+)", printed), number(r"^whole model +[\d,]+ +([\d,]+)$", printed)
    assert 0.50 < after / before < 0.51
    assert stored["trained"] == stored["its average"] == after
    assert min(accuracy["trained"], accuracy["its average"]) > 75

    size = number(r"^folded: ([\d,]+) bytes on disk$", printed)
    assert size == (folder / "vit.safetensors").stat().st_size
    with safe_open(folder / "vit.safetensors", "pt") as file:
        assert sum(file.get_tensor(key).numel() for key in file.keys()) == after  # noqa: SIM118 - not a dict
    assert 4 * after < size < 4 * after + 10_000

    rank, layers, width = 4, 8, 64
    adapters = rank * layers * ((width + 3 * width) + (width + 4 * width))
    assert stored["with LoRA"] == stored["LoRA off, upright"] == after + adapters
    assert accuracy["upside down"] + 20 < accuracy["with LoRA"]
    assert accuracy["LoRA off, upright"] == accuracy["its average"]
    assert "nothing below LoRA has moved: True\n" in printed

    assert stored["merged"] == before
    assert accuracy["merged"] == pytest.approx(accuracy["with LoRA"], abs=0.6)  # two of 360, should two logits be close
    (apart,) = re.findall(r"^outputs differ by (\S+)$", printed, re.MULTILINE)
    assert float(apart) < 1e-4


CHECKS: dict[str, Callable[[str, Path], None]] = {"vit": check_vit}


def test_every_example_has_its_claims_checked() -> None:
    assert {path.stem for path in EXAMPLES} == set(CHECKS)


@BY_NAME
def test_short_enough_to_read(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60


@BY_NAME
def test_runs_and_what_it_prints_is_so(example: Path, tmp_path: Path) -> None:
    check_output = CHECKS[example.stem]
    check_output(run(example, tmp_path), tmp_path)


def test_the_checks_notice_what_is_not_so(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check_vit("trained: 89.7%, 203,210 numbers\n", tmp_path)
    failing = tmp_path / "failing.py"
    failing.write_text("import warnings\nwarnings.warn('noisy')\n")
    with pytest.raises(AssertionError, match="noisy"):
        run(failing, tmp_path)
    assert torch.get_num_threads() == 1  # so the time above is that of one core
