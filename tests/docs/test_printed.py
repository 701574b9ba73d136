"""What pages show is told from what code prints where they differ by more than a machine changes."""

import pytest

from tests.printed import differences


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("trained: 95.6%, 8,362 numbers", "trained: 91.0%, 8,362 numbers"),
        ("a   b\n─────\n1   2", "a b\n───\n1 2"),
        ("error 6.48e-08", "error equal"),
        ("One layer: a b\nleft", "left"),
        ("4 × 3", "5 × 3"),
    ],
)
def test_alike(said, printed):
    assert differences(said, printed) == []


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("trained: 95.6%", "trained: 75.6%"),
        ("trained: 95.6%", "trained 95.6%"),
        ("8,362 numbers", "12,586 numbers"),
        ("one\ntwo", "one"),
        ("", "said"),
        ("0.05 apart", "9.3 apart"),
        ("SNR ∞", "SNR 33.7"),
    ],
)
def test_not_alike(said, printed):
    assert len(differences(said, printed)) == 1
