"""Writers that are killed at random moments, several at once, and disks that fill up: a file is always whole."""

from pathlib import Path
import resource

import pytest
from torch import nn

from tests.support import python
from tests.unit.files.writers import model, read
import weightshare as ws
from weightshare.errors import FileError
from weightshare.files.atomic import write_json

RUN = "import sys; from pathlib import Path; from tests.unit.files.writers import {0}; {0}(Path(sys.argv[1]), {1})"


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    assert python(RUN.format("killed", 20), tmp_path).strip() == "20"


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    assert python(RUN.format("at_once", 60), tmp_path).strip() == "60"


def test_a_file_may_not_grow_so_large(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the system refuses in the middle of writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 500, 99_999):
        ws.save(model(1.0), tmp_path / "m")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            with pytest.raises(FileError, match=r"File too large"):
                ws.save(model(2.0), tmp_path / "m")
            with pytest.raises(FileError, match=r"File too large"):
                write_json(tmp_path / "m", [2] * 99_999)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert read(tmp_path / "m") == 1.0
        assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)  # root may write everywhere
    with pytest.raises(FileError, match=r"Permission denied\. What was there is unchanged"):
        ws.save(nn.Linear(2, 3), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_led_elsewhere_by_a_link_at_the_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightshare.files.atomic.token_hex", lambda _: "guessed")
    (tmp_path / "mine").mkdir()
    (tmp_path / ".m.guessed.tmp").symlink_to("mine")
    with pytest.raises(FileError, match="File exists"):
        ws.save(nn.Linear(2, 3), tmp_path / "m")
    assert list((tmp_path / "mine").iterdir()) == []
