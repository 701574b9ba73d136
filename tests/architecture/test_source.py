"""The source: no module imports the root package, nothing is unpickled or evaluated, all is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import weightshare

SOURCE = Path(weightshare.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
BY_NAME = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
CALLS = {"eval", "exec", "compile", "__import__"}
TORCH_PICKLES = {"load", "save"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def root_imports(tree: ast.AST) -> Iterator[str]:
    """Imports of the root package itself; those of its submodules are fine."""
    submodules = {path.stem for path in SOURCE.glob("*.py")} | {path.name for path in SOURCE.iterdir() if path.is_dir()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"line {node.lineno}" for alias in node.names if alias.name == "weightshare")
        if isinstance(node, ast.ImportFrom) and node.module == "weightshare" and node.level == 0:
            yield from (f"line {node.lineno}: {a.name}" for a in node.names if a.name not in submodules)
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: relative"


def dangers(tree: ast.AST) -> Iterator[str]:
    """Whatever could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PICKLES)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] * (node.module.partition(".")[0] in PICKLES)
            yield from (f"torch.{a.name}" for a in node.names if node.module == "torch" and a.name in TORCH_PICKLES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            yield from [f"torch.{node.attr}"] * (node.attr in TORCH_PICKLES)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from [f"{node.func.id}()"] * (node.func.id in CALLS)


@BY_NAME
def test_no_module_imports_the_root_package(path: Path) -> None:
    assert list(root_imports(ast.parse(path.read_text(encoding="utf-8")))) == []


@BY_NAME
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_searches_find_what_they_look_for() -> None:
    roots = "import weightshare\nfrom weightshare import plan\nfrom weightshare import sharing\nfrom . import x\n"
    assert list(root_imports(ast.parse(roots))) == ["line 1", "line 2: plan", "line 4: relative"]
    code = "import pickle\nfrom torch import load\ntorch.save(a)\neval('1')\ntorch.loads\nfrom dill import load\n"
    assert sorted(dangers(ast.parse(code))) == ["dill", "eval()", "pickle", "torch.load", "torch.save"]


@BY_NAME
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_there_are_modules_to_look_at() -> None:
    assert len(FILES) > 20
    assert SOURCE / "surgery" / "edit.py" in FILES


def test_the_package_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()
