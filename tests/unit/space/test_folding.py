"""Local layers beside the rest of the library: ties, files, reports, optimizers, data-parallel training, codebooks."""

import copy
import math

import pytest
import torch
from torch import nn

from tests.support import bits, state
from weightshare.analysis.report import report
from weightshare.depth.tie import Tie
from weightshare.errors import FileError, ModelChanged, NoMatch, OptimizerMismatch, SpecError
from weightshare.files.checkpoint import load, save
from weightshare.optimizer import check, param_groups
from weightshare.space.convert import plan_local
from weightshare.space.fold import plan_fold
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d
from weightshare.space.sleep import Sleep
from weightshare.values.codebook import Codebook
from weightshare.verbs import fold, localize_, share_, unshare_

X = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))


def convs(layers: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(layers)), nn.BatchNorm2d(2))


def tied() -> nn.Sequential:
    """Three local layers that read one weight and one bias."""
    net = convs()
    localize_(net, X, eps=0.5)
    share_(net, Tie(rate=3), where="[0-2]")
    return net


def test_tied_local_layers_become_tied_convolutions():
    net = tied()
    plan = plan_fold(net, X)
    small = fold(net, tolerance=math.inf)
    assert small[0].weight is small[1].weight is small[2].weight
    assert small[0].bias is small[2].bias
    assert [type(one) for one in small] == [nn.Conv2d] * 3 + [nn.BatchNorm2d]
    assert plan.stored_before == sum(one.numel() for one in net.parameters())
    assert plan.stored_after == sum(one.numel() for one in small.parameters()) == 2 * 2 * 9 + 2 + 4
    assert net[0].weight is net[2].weight


def test_equal_kernels_are_copied_where_their_mean_would_be_rounded():
    conv = nn.Conv1d(3, 5, 1, dtype=torch.float64)
    layer = LocallyConnected1d.from_conv(conv, 1009, bias="position")
    assert not torch.equal(layer.kernels().mean(0), layer.kernels()[0])
    assert torch.equal(fold(layer).weight, conv.weight)
    assert torch.equal(fold(layer).bias, conv.bias)


def test_a_bias_that_another_layer_reads_too_stays_one():
    net = nn.Sequential(LocallyConnected2d(2, 2, 3, (5, 7), padding=1), nn.BatchNorm2d(2))
    net[0].reset_parameters(eps=0.0)
    net[1].bias = net[0].bias
    small = fold(net)
    assert small[1].bias is small[0].bias
    assert small[0].bias is not net[0].bias


def test_unsharing_and_tying_again():
    net = tied()
    out = net(X)
    unshare_(net)
    assert net[0].weight is not net[1].weight
    assert torch.equal(net(X), out)


def test_ties_come_first_or_local_layers_do_but_ties_are_not_undone():
    net = convs()
    share_(net, Tie(rate=3), where="[0-2].weight")
    before = state(net)
    with pytest.raises(NoMatch, match=r"'0': its weight is one parameter with '1.weight', and each position"):
        localize_(net, X)
    assert state(net) == before


def test_a_folded_loop_can_become_local_again():
    net = convs(1)
    net.append(net[0])
    localize_(net, X)
    assert net[2] is net[0]
    assert isinstance(net[0], LocallyConnected2d)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("mode", ["instant", "hebbian"])
def test_what_several_layers_read_sleeps_once(mode, strength):
    net = nn.Sequential(*(LocallyConnected2d(2, 2, 2, (7, 5)) for _ in range(2)))
    net[1].weight = net[0].weight
    alone = copy.deepcopy(nn.Sequential(net[0]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = Sleep(mode=mode, strength=strength).attach_(optimizer, net)
    Sleep(mode=mode, strength=strength).now_(net)
    Sleep(mode=mode, strength=strength).now_(alone)
    assert torch.equal(net[0].weight, alone[0].weight)
    handle.now()
    Sleep(mode=mode, strength=strength).now_(alone)
    assert torch.equal(net[0].weight, alone[0].weight)
    assert handle.paths == ("0.weight",)


def test_saved_and_loaded_it_is_local_and_a_convolution_is_told(tmp_path):
    net, twin, plain = convs(), convs(), convs()
    localize_(net, X, eps=0.5)
    localize_(twin, X)
    save(net, tmp_path / "local.safetensors")
    load(tmp_path / "local.safetensors", twin)
    assert [bits(one) for one in twin.parameters()] == [bits(one) for one in net.parameters()]
    with pytest.raises(FileError, match=r"'0.weight' .* is \(5, 7, 1, 18, 2\) .*the model has \(2, 2, 3, 3\)"):
        load(tmp_path / "local.safetensors", plain)
    save(fold(net, tolerance=math.inf), tmp_path / "folded.safetensors")
    load(tmp_path / "folded.safetensors", plain)
    assert torch.equal(plain.eval()(X), fold(net, tolerance=math.inf).eval()(X))


def test_a_report_counts_every_kernel():
    net = convs()
    before = report(net)
    localize_(net, X)
    after = report(net)
    assert before.stored == 3 * (36 + 2) + 4
    assert after.stored == after.logical == 3 * (35 * 36 + 2) + 4
    assert after.distinct < after.stored / 30


def test_an_optimizer_from_before_is_told():
    net = convs()
    old = torch.optim.SGD(net.parameters(), lr=0.1)
    localize_(net, X)
    with pytest.raises(OptimizerMismatch, match=r"shape \(2, 2, 3, 3\) trains nothing"):
        check(old, net)
    check(torch.optim.SGD(param_groups(net, weight_decay=0.1), lr=0.1), net)


def test_in_data_parallel_training_it_is_refused_and_folding_is_not(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        outer = nn.parallel.DistributedDataParallel(convs())
        before = state(outer.module)
        with pytest.raises(ModelChanged, match="inside DistributedDataParallel"):
            localize_(outer, X)
        assert state(outer.module) == before
        net = convs()
        localize_(net, X)
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert type(fold(wrapped)[0]) is nn.Conv2d
        assert plan_fold(wrapped, X).error == 0
    finally:
        dist.destroy_process_group()


def test_a_codebook_on_local_layers_folds_with_them():
    net = convs()
    localize_(net, X, eps=0.3)
    share_(net, Codebook(7), where="0.weight")
    with pytest.raises(SpecError, match=r"Sleep on '0': its weight is made from stored slots"):
        Sleep().now_(net, where="0")
    small = fold(net, tolerance=math.inf)
    assert type(small[0]) is nn.Conv2d
    assert torch.allclose(small[0].weight, net[0].as_conv_weight(net[0].kernels().mean(0)), atol=1e-6)
    assert plan_fold(net).rows[0].error > 0


def tie_by_hand(net):
    net[1].weight = net[0].weight


CHANGES = {
    "tied": (
        lambda net: share_(net, Tie(rate=3), where="[0-2]"),
        "'0' .*: its weight is one parameter with '1.weight'",
    ),
    "tied by hand": (tie_by_hand, "'0' .*: its weight is one parameter with '1.weight'"),
    "hooks": (lambda net: net[2].register_forward_hook(lambda *_: None), "'2' .*: it has hooks, which would be lost"),
    "padding": (lambda net: setattr(net[1], "padding", (0, 0)), "'1' .*: it has 3×5 positions, planned were 5×7"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_that_is_out_of_date_is_refused(name):
    net = convs()
    plan = plan_local(net, X)
    change, said = CHANGES[name]
    change(net)
    before = state(net)
    with pytest.raises(ModelChanged, match=said):
        plan.apply_(net)
    assert state(net) == before
    assert [type(one) for one in net] == [nn.Conv2d] * 3 + [nn.BatchNorm2d]


def test_a_model_that_is_local_already_is_told_so():
    net = convs(2)
    localize_(net, X)
    with pytest.raises(NoMatch, match=r"matches no convolution of Sequential. Local already, 2: 0 1.$"):
        localize_(net, X)


@pytest.mark.parametrize("verb", [fold, plan_fold])
def test_on_the_meta_device_there_is_nothing_to_fold(verb):
    net = convs().to("meta")
    localize_(net, X.to("meta"))
    with pytest.raises(SpecError, match="'0' is on the meta device and has no numbers to fold: load the model first"):
        verb(net)


class Largest(nn.Sequential):
    """Gives whole numbers."""

    def forward(self, input):
        return super().forward(input).argmax(1)


def test_outputs_that_cannot_be_compared_are_not_called_equal():
    net = Largest(*convs())
    localize_(net, X, eps=0.5)
    plan = plan_fold(net, X)
    assert plan.output_error is None
    assert plan.rows[0].output_error > 0.1
    assert plan_fold(net, X[:0]).rows[0].output_error is None
    assert plan_fold(net[0], X[:0]).output_error is None


def test_outputs_that_come_from_nothing_are_infinitely_off():
    net = nn.Sequential(LocallyConnected2d(1, 1, 1, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]).view_as(net[0].weight))
    plan = plan_fold(net, torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]]))
    assert (plan.output_error, plan.rows[0].output_error) == (math.inf, math.inf)
