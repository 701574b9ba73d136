"""Compilers: every method is compiled whole, and not again by what training does; the counts are those of the docs."""

import pytest

from weightshare.experiments.exporting import METHODS, traced

OF_BANKS = ("tie, LoRA of each layer", "tie, trained through", "templates")
LOCAL_OR_DENSE = ("lattice", "low rank", "sleep", "codebook", "proximal")
WANTED = {
    **dict.fromkeys(("unshared", "tie, mean"), (1, 2, 4, 4)),
    **dict.fromkeys(OF_BANKS, (2, 3, 6, 6)),  # the hook that makes weights is a graph of its own, without gradients too
    **dict.fromkeys(LOCAL_OR_DENSE, (1, 2, 3, 3)),  # no batch norm: evaluation is no other graph
}
QUICK = ("templates", "proximal", "sleep")


def check(name):
    found = traced(name)
    assert found.breaks == 0
    assert (found.steps, found.batches, found.evaluation, found.again) == WANTED[name]


@pytest.mark.parametrize("name", QUICK)
def test_training_compiles_a_network_once(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name not in QUICK])
def test_training_compiles_a_network_of_any_method_once(name):
    check(name)
