"""What each example claims, as checks of what it printed and wrote. Those of the text come first."""

from collections.abc import Callable
from pathlib import Path
import re

import pytest
from safetensors import safe_open
import torch
from torch import nn

import weightshare as ws


def number(pattern: str, printed: str) -> int:
    """The one number with commas that a pattern finds."""
    (found,) = re.findall(pattern, printed, re.MULTILINE)
    return int(found.replace(",", ""))


def percent(pattern: str, printed: str) -> float:
    """The one percentage that a pattern finds."""
    (found,) = re.findall(rf"{pattern}([\d.]+)%", printed, re.MULTILINE)
    return float(found)


def planned(printed: str) -> tuple[int, int]:
    """Stored numbers of the whole model before and after, as a plan says."""
    line = r"^whole model +([\d,]+) +([\d,]+)(?: |$)"
    return tuple(int(one.replace(",", "")) for one in re.findall(line, printed, re.MULTILINE)[0])  # type: ignore[return-value]


def stored_in(path: Path) -> int:
    """How many numbers a file holds."""
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118 - not a dict


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
    assert stored_in(folder / "vit.safetensors") == after
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


def check_halve_a_vit(printed: str, folder: Path) -> None:
    """Fusing costs much, learning from the unshared network brings most of it back, and the file is half as large."""
    before, after = planned(printed)
    assert 0.5 < after / before < 0.52
    trained, fused, distilled = (percent(f"^{name}: ", printed) for name in ("trained", "fused", "distilled"))
    assert trained > 85
    assert fused < trained - 10 < distilled
    large, small = number(r"^([\d,]+) bytes before", printed), number(r"([\d,]+) after$", printed)
    assert small < 0.53 * large
    assert [stored_in(folder / f"{name}.safetensors") for name in ("vit", "halved")] == [before, after]


def check_local_cnn(printed: str, folder: Path) -> None:
    """Local networks store more, know nothing of moved digits unless they sleep, and fold into convolutions."""
    before, after = planned(printed)
    assert after > 10 * before
    rows = re.findall(r"^(.+): ([\d.]+)% where it was trained, ([\d.]+)% moved$", printed, re.MULTILINE)
    there, moved = ({name: float(row[at]) for name, *row in rows} for at in (0, 1))
    assert list(there) == ["convolution", "never slept", "slept", "slept, folded"]
    assert there["convolution"] == moved["convolution"] > 75
    assert there["never slept"] > 95
    assert moved["never slept"] < 40
    assert moved["slept"] > moved["never slept"] + 20
    assert there["slept, folded"] == moved["slept, folded"] > 50
    assert number(r"([\d,]+) folded$", printed) < 0.3 * number(r"^([\d,]+) bytes local", printed)
    assert (folder / "local.safetensors").stat().st_size == number(r"^([\d,]+) bytes local", printed)


def check_cluster_mlp(printed: str, folder: Path) -> None:
    """Sixteen values cost next to nothing, two cost more until they are trained, and files are as small as labels."""
    dense, size = percent("^dense: ", printed), number(r"^dense: .* ([\d,]+) bytes$", printed)
    rows = re.findall(r"^(\d+) values: ([\d.]+)%, trained on ([\d.]+)%, ([\d,]+) bytes$", printed, re.MULTILINE)
    clustered = {int(clusters): (float(before), float(after)) for clusters, before, after, _ in rows}
    sizes = {int(clusters): int(found.replace(",", "")) for clusters, _, _, found in rows}
    assert list(clustered) == [16, 4, 2]
    assert dense > 93
    assert min(clustered[16]) > dense - 4
    assert clustered[2][1] > clustered[2][0] + 1
    for clusters, bits in ((16, 4), (4, 2), (2, 1)):
        assert sizes[clusters] < size * bits / 32 + 4_000
        assert (folder / f"{clusters}.safetensors").stat().st_size == sizes[clusters]


def check_wrn_loop(printed: str, folder: Path) -> None:
    """Every stage becomes one layer in a loop, half of the numbers go, and little accuracy with them."""
    assert re.findall(r"^layer\d\S+ +4 +4 +(\d)", printed, re.MULTILINE) == ["1", "1", "1"]
    loops = re.findall(r"^Chain 'layer(\d)': 0 → 2 × \(1\)$", printed, re.MULTILINE)
    assert loops == ["1", "2", "3"]
    before, after = (number(rf"{what}", printed) for what in (r"go; ([\d,]+) stored", r"become ([\d,]+)\."))
    assert after < 0.5 * before
    assert percent("^trained on: ", printed) > 85
    assert percent("^trained on: ", printed) > percent("^trained: ", printed) - 5
    size = number(r"([\d,]+) with$", printed)
    assert size == (folder / "small.safetensors").stat().st_size < 0.6 * number(r"^([\d,]+) bytes without", printed)


def check_share_bert(printed: str, folder: Path) -> None:
    """Two layers are stored of six, what they give is learnt again, and the folder reads as it was written."""
    before, after = planned(printed)
    assert printed.count("0 0 0 1 1 1") == 12
    assert after < 0.65 * before
    unshared, shared, distilled = (percent(f"^{name}: ", printed) for name in ("unshared", "shared", "distilled"))
    assert unshared > 55  # of four classes
    assert distilled > unshared - 8
    assert distilled > shared
    assert "read again: True\n" in printed
    size = number(r"^distilled: [\d.]+%, ([\d,]+) bytes$", printed)
    assert (folder / "shared" / "weightshare.safetensors").stat().st_size == size
    assert stored_in(folder / "shared" / "weightshare.safetensors") == after


def check_eight_gpus(printed: str, folder: Path) -> None:
    """Layers that share lie in one unit, the processes learn, and the file is that of the whole network."""
    assert re.findall(r"^(blocks\.\d, blocks\.\d) .* share a parameter$", printed, re.MULTILINE) == [
        "blocks.0, blocks.1",
        "blocks.2, blocks.3",
    ]
    assert printed.count("whole model") == 1  # the first process speaks, no other
    assert percent("^2 processes on cpu: ", printed) > 90
    fresh = ws.models.convmixer(dim=32, depth=4, patch=2, kernel=3, classes=10, in_channels=1)
    small: nn.Module = ws.load(folder / "small.safetensors", fresh)
    assert ws.report(small).stored == planned(printed)[1]
    assert (folder / "small.safetensors").stat().st_size == number(r"%, ([\d,]+) bytes$", printed)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in small.parameters())


def check_sweep(printed: str, folder: Path) -> None:
    """Four runs that finished, two of which share, each in a directory of its own; and the page."""
    rows = re.findall(r"^(\S+): finished, ([\d.]+)%, ([\d,]+) numbers$", printed, re.MULTILINE)
    assert [name for name, *_ in rows] == [f"rate={rate}_lr={lr}" for rate in (1, 4) for lr in (0.01, 0.03)]
    stored = [int(numbers.replace(",", "")) for *_, numbers in rows]
    assert stored[0] == stored[1] > stored[2] == stored[3]
    assert min(float(right) for _, right, _ in rows) > 30
    assert "compares them: True\n" in printed
    assert all((folder / "sweep" / name / "summary.json").is_file() for name, *_ in rows)


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "cluster_mlp": check_cluster_mlp,
    "eight_gpus": check_eight_gpus,
    "halve_a_vit": check_halve_a_vit,
    "local_cnn": check_local_cnn,
    "share_bert": check_share_bert,
    "sweep": check_sweep,
    "vit": check_vit,
    "wrn_loop": check_wrn_loop,
}
