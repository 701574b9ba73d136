"""Orders and spreads as values: printed as they are written, checked when they are built."""

import pytest

from weightshare.depth.topology import Choice, Random, Third, back, front, middle, random, sequential, strided, uniform
from weightshare.errors import SpecError
from weightshare.parts import Part


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (sequential, "sequential"),
        (strided, "strided"),
        (uniform, "uniform"),
        (front, "front"),
        (middle, "middle"),
        (back, "back"),
        (random(), "random"),
        (random(seed=3), "random(seed=3)"),
    ],
)
def test_a_choice_is_printed_as_it_is_written(choice: Choice, text: str) -> None:
    assert repr(choice) == text


@pytest.mark.parametrize("choice", [sequential, strided, uniform, front, middle, back, random(seed=3)])
def test_a_choice_survives_its_dictionary(choice: Choice) -> None:
    assert Part.from_dict(choice.to_dict()) == choice


def test_choices_are_compared_by_value() -> None:
    assert Random(3) == random(seed=3) != random(seed=4)
    assert sequential != strided


@pytest.mark.parametrize("which", [-1, 3, 0.5, 1.0, True])
def test_there_are_three_thirds(which: object) -> None:
    with pytest.raises(SpecError, match="need 0 for the front"):
        Third(which)


@pytest.mark.parametrize("seed", [[1], (1,), None, "a", 1.5, -1j])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(SpecError, match="seed"):
        random(seed=seed)
