"""docs/files.md: its snippet reads every file of ours in a Python that cannot import this library."""

import json
from pathlib import Path
import re

import pytest
from safetensors.torch import save_file
import torch

from tests.contract.specs import OF_BANKS, OF_POSITIONS, SPECS
from tests.support import ROOT, python
from tests.zoo import LOCAL, chain
import weightshare as ws

PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
ALONE = """
import os, pathlib, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("weightshare", "tests"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from safetensors.torch import load_file
import torch
snippet = compile(open(sys.argv[1]).read(), "files.md", "exec")
for folder in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    os.chdir(folder)
    exec(snippet, names := {})
    wanted = load_file("wanted.safetensors")
    assert names["state"].keys() == wanted.keys(), (folder, names["state"].keys() ^ wanted.keys())
    for name, tensor in wanted.items():
        torch.testing.assert_close(names["state"][name], tensor, msg=f"{folder}: {name}")
    print(folder.name)
assert not [name for name in sys.modules if name.startswith("weightshare")]
"""


def made(folder: Path, name: str, folded: bool) -> None:
    """A file of a method, and the dense weights that it is to give."""
    torch.manual_seed(0)
    model, _ = LOCAL["local_images"]() if name in OF_POSITIONS else chain()
    ws.share_(model, SPECS[name]())
    plain = ws.fold(model) if name not in OF_POSITIONS else model
    here = folder / f"{name}, {'folded' if folded else 'shared'}"
    here.mkdir(parents=True)
    ws.save(plain if folded else model, here / "small.safetensors")
    ws.unshare_(model)
    wanted = model.state_dict()
    save_file({key: tensor.clone() for key, tensor in wanted.items()}, here / "wanted.safetensors")


def test_the_snippet_reads_every_file_without_this_library(tmp_path: Path) -> None:
    """A shared model whose weights are trained through a fusion or a transform has no recipes, as the page says."""
    (snippet,) = re.findall(r"^```python\n(import json.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    for name in SPECS:
        if name not in OF_POSITIONS:
            made(tmp_path / "files", name, folded=True)
        if name == "templates" or name not in OF_BANKS:
            made(tmp_path / "files", name, folded=False)
    told = python(ALONE, tmp_path / "snippet.py", tmp_path / "files").splitlines()
    assert told == sorted(folder.name for folder in (tmp_path / "files").iterdir())
    assert len(told) == 2 * len(SPECS) - 2 - 2


@pytest.mark.parametrize("name", ["trained through", "low rank of each layer"])
def test_what_has_no_recipes_says_so(name: str, tmp_path: Path) -> None:
    made(tmp_path, name, folded=False)
    path = tmp_path / f"{name}, shared" / "small.safetensors"
    with pytest.raises(ws.SharingError, match=r"Load it into the model with weightshare\.load, fold that"):
        ws.tensors(path)
    assert "recipes" not in json.dumps(sorted(ws.tensors(path.with_name("wanted.safetensors"))))
