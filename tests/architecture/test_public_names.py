"""Public names: few, sorted, each documented to the letter of the rules."""

from dataclasses import fields, is_dataclass
import inspect

import pytest

import weightshare as ws

FUNCTIONS = [name for name in ws.__all__ if inspect.isfunction(getattr(ws, name))]
CLASSES = [name for name in ws.__all__ if inspect.isclass(getattr(ws, name))]
VALUES = [name for name in ws.__all__ if name not in FUNCTIONS + CLASSES + ["models"]]


def test_there_are_at_most_forty() -> None:
    assert len({*ws.__all__} - {"models"}) <= 40  # a module of its own, not a name to learn
    assert ws.__all__ == sorted(ws.__all__)


def test_each_exists_and_nothing_else_is_public() -> None:
    assert all(hasattr(ws, name) for name in ws.__all__)
    found = {name for name, value in vars(ws).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert found - {"TYPE_CHECKING"} <= set(ws.__all__)


def test_every_kind_is_there() -> None:
    """Else the tests below would hold for nothing."""
    assert {"plan", "share_", "fold", "save", "load"} <= set(FUNCTIONS)
    assert {"Tie", "Plan", "SharingError", "random"} <= set(CLASSES)
    assert {"sequential", "mean", "uniform"} <= set(VALUES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_does_takes_and_gives(name: str) -> None:
    function = getattr(ws, name)
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    assert text.partition("\n")[0].endswith(".")
    section = text.partition("Args:\n")[2]
    assert not [parameter for parameter in signature.parameters if f"    {parameter}: " not in section]
    assert ("Returns:" in text) == (signature.return_annotation not in (None, "None"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_annotations(name: str) -> None:
    signature = inspect.signature(getattr(ws, name))
    assert signature.return_annotation is not signature.empty
    assert not [p for p in signature.parameters.values() if p.annotation is p.empty]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_is_and_what_its_fields_are(name: str) -> None:
    cls = getattr(ws, name)
    text = inspect.cleandoc(cls.__doc__ or "")
    named = [field.name for field in fields(cls)] if is_dataclass(cls) else []
    assert text.partition("\n")[0].endswith(".")
    assert not text.startswith(f"{cls.__name__}(")  # what dataclass writes for want of a docstring
    section = text.partition("Args:\n")[2]
    assert not [field for field in named if f"    {field}: " not in section]


@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_are_documented(name: str) -> None:
    cls = getattr(ws, name)
    methods = [
        member
        for key, member in vars(cls).items()
        if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | classmethod))
    ]
    assert not [member for member in methods if not inspect.getdoc(member)]


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_a_documented_class(name: str) -> None:
    text = inspect.cleandoc(type(getattr(ws, name)).__doc__ or "")
    assert text.partition("\n")[0].rstrip(".").strip()
    assert not text.startswith(f"{type(getattr(ws, name)).__name__}(")


def test_models_is_a_documented_module() -> None:
    assert inspect.ismodule(ws.models)
    assert ws.models.__doc__


def test_errors_have_one_base_and_a_docstring_each() -> None:
    from weightshare import errors

    kinds = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert len(kinds) > 5
    assert all(issubclass(kind, ws.SharingError | UserWarning) and kind.__doc__ for kind in kinds)
    assert [kind.__name__ for kind in kinds if issubclass(kind, UserWarning)] == ["SharingWarning"]
    assert issubclass(ws.SharingError, ValueError)
