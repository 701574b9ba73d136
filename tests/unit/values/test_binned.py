"""The proximal map without sorting: what it keeps, and that neither threads nor processes change it."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from tests.particles import KINDS, each_kernel, exact, weights  # noqa: F401
from tests.support import bits
import weightshare as ws
from weightshare import kernels
from weightshare.errors import SpecError
from weightshare.values.prox import prox_clusters

PART = 7_001


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("kind", KINDS)
def test_order_is_kept_but_for_one_bin_width(kind):
    for step in (1e-5, 1e-3, 0.1):
        w = weights(kind, 10_007, step=step)
        z, _ = ws.prox_pairwise_binned(w, step, bins=257)
        behind = z[w.argsort()].cummax(0).values - z[w.argsort()]
        assert float(behind.max()) <= 1.0001 * float(w.max() - w.min()) / 257


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_kept(kind):
    w = weights(kind, 10_007)
    z, _ = ws.prox_pairwise_binned(w, 0.01)
    assert float((z.mean() - w.mean()).abs()) <= 1e-13 * float(w.abs().max())


def test_weights_that_met_no_other_do_not_become_equal():
    w = weights("normal", 10_007)
    z, _ = ws.prox_pairwise_binned(w, 1e-7, bins=257)
    assert len(z.unique()) == 10_007
    assert float((z - w).abs().max()) > 5e-8


def test_one_far_outlier_spoils_nothing():
    w = weights("far", 10_007).float()
    z, _ = ws.prox_pairwise_binned(w, 0.01)
    rest = torch.arange(10_007) != 10_007 // 2
    assert float((z.double() - exact(w, 0.01))[rest].abs().max()) < 0.5 / 65536


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    w = weights("normal", 1009).to(dtype)
    z, bound = ws.prox_pairwise_binned(w, 0.01)
    assert z.dtype == dtype
    assert torch.equal(z, ws.prox_pairwise_binned(w.float(), 0.01)[0].to(dtype))
    assert float((z.double() - exact(w, 0.01)).abs().max()) <= bound


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_in_place_and_into_another(dtype):
    w = weights("normal", 1009).to(dtype)
    z, _ = ws.prox_pairwise_binned(w, 0.01)
    into = torch.empty_like(w)
    assert ws.prox_pairwise_binned(w, 0.01, out=into)[0] is into
    assert torch.equal(into, z)
    ws.prox_pairwise_binned(w, 0.01, out=w)
    assert torch.equal(w, z)
    still = w.clone()
    ws.prox_pairwise_binned(w, 0, out=into)
    assert torch.equal(into, still)


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("step", [0.0, 0.01])
def test_a_parameter_can_be_written_to_and_autograd_knows(dtype, step):
    w = torch.nn.Parameter(weights("normal", 101).to(dtype).view(101, 1))
    expected = ws.prox_pairwise_binned(w, step)[0]
    kept = w.square().sum()
    assert ws.prox_pairwise_binned(w, step, out=w)[0] is w
    assert torch.equal(w.detach(), expected)
    assert w.is_leaf
    assert not expected.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(kernels.on(torch.device("cpu")), "ALONE", 1009, raising=False)  # where threads are ours
    w = weights("half_zero", 20_011).float()
    threads = torch.get_num_threads()
    alone = ws.prox_pairwise_binned(w, 0.01)
    torch.set_num_threads(3)
    three = ws.prox_pairwise_binned(w, 0.01)
    exactly = ws.prox_pairwise(w, 0.01)
    torch.set_num_threads(threads)
    assert (bits(alone[0]), alone[1]) == (bits(three[0]), three[1])
    assert bits(exactly) == bits(ws.prox_pairwise(w, 0.01))


def work(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    whole = weights(kind, 10_007).float()
    parts = [whole[:PART], whole[PART:]] if kind != "two" else [whole, whole[:0]]
    z, bound = ws.prox_pairwise_binned(parts[rank], 0.01, group=torch.distributed.group.WORLD)
    poisoned = torch.full((3,), float("nan") if rank else 1.0)
    refused = ""
    try:
        ws.prox_pairwise_binned(poisoned, 0.01, group=torch.distributed.group.WORLD)
    except ws.SharingError as error:
        refused = str(error)
    Path(f"{folder}/{rank}").write_text(f"{(bits(z) or b'').hex()}\n{bound.hex()}\n{refused}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["normal", "outlier", "two"])
def test_two_processes_get_what_one_gets(kind, tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path), kind), nprocs=2)
    z, bound = ws.prox_pairwise_binned(weights(kind, 10_007).float(), 0.01)
    parts = [(tmp_path / str(rank)).read_text().split("\n") for rank in range(2)]
    assert bytes.fromhex(parts[0][0]) + bytes.fromhex(parts[1][0]) == bits(z)
    assert [float.fromhex(part[1]) for part in parts] == [bound, bound]
    assert all("NaN or infinite" in part[2] for part in parts)


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_and_rewinding_stay_within_the_bound(kind):
    for step, l1, rewind in (
        (1e-3, 1e-2, 0.0),
        (1e-2, 0.0, 0.5),
        (1e-2, 3e-2, 0.98),
        (0.0, 1e-2, 1.0),
        (0.1, 0.1, 1.0),
    ):
        w = weights(kind, 5_003, step=step)
        new, clusters = prox_clusters(w, step)
        count = int(clusters.max()) + 1
        old = torch.zeros(count, dtype=torch.float64).index_add(0, clusters, w) / clusters.bincount()
        soft = new.sign() * (new.abs() - l1).clamp_min(0)
        back = old[clusters] + (1 - rewind) * (soft - old[clusters])
        wanted = torch.where(soft == 0, 0.0, back) if l1 else back
        z, bound = ws.prox_pairwise_binned(w, step, bins=257, l1=l1, rewind=rewind)
        rounding = 1e-12 * float(w.abs().max())  # of the twin
        assert float((z - wanted).abs().max()) <= bound + rounding
        width = max(float(w.max() - w.min()) / 257, 1e-12)
        assert bound <= 2.001 * width + 2 * rewind * (step + l1) + rounding


def test_what_the_threshold_takes_is_zero_exactly():
    w = weights("normal", 10_007)
    z, _ = ws.prox_pairwise_binned(w, 1e-4, bins=257, l1=0.02, rewind=0.9)
    assert 1000 < int((z == 0).sum()) < 9000
    assert torch.equal(ws.prox_pairwise_binned(torch.full((5,), 0.3), 0.1, l1=0.5)[0], torch.zeros(5))
    assert torch.allclose(
        ws.prox_pairwise_binned(torch.full((5,), 0.3), 0.1, l1=0.1, rewind=0.5)[0], torch.full((5,), 0.25)
    )
    assert ws.prox_pairwise_binned(torch.empty(0), 0.1, l1=0.1, rewind=0.5)[0].shape == (0,)


@pytest.mark.parametrize("wrong", [{"l1": -1.0}, {"l1": float("nan")}, {"rewind": 1.01}, {"rewind": -0.1}])
def test_thresholds_and_rewinding_out_of_range(wrong):
    with pytest.raises(SpecError, match="prox_pairwise_binned"):
        ws.prox_pairwise_binned(torch.randn(5), 0.1, **wrong)
