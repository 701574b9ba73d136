"""To local layers and back: bit for bit where kernels are equal, refused where not, and nothing half done."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.support import bits, state
from weightshare.errors import AlreadyShared, ModelChanged, NoMatch, SpecError
from weightshare.models import build
from weightshare.space.convert import plan_local
from weightshare.space.fold import plan_fold
from weightshare.space.layer import LocalLayer
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d
from weightshare.verbs import fold, localize_

NETS = {
    "resnet20": lambda: (build("resnet20:3/5/7", in_channels=2, classes=11, blocks=1), (2, 2, 8, 8)),
    "convmixer": lambda: (build("convmixer:7/2/2/3", in_channels=3, classes=11), (2, 3, 6, 10)),
    "1d": lambda: (
        nn.Sequential(nn.Conv1d(3, 5, 4, stride=3), nn.BatchNorm1d(5), nn.Conv1d(5, 5, 3, groups=5, bias=False)),
        (2, 3, 23),
    ),
    "autoencoder": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1),
        ),
        (2, 3, 6, 10),
    ),
    "3d": lambda: (nn.Sequential(nn.Conv3d(2, 3, 2), nn.ConvTranspose3d(3, 2, (1, 2, 3))), (2, 2, 3, 5, 7)),
}
TIMM = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"]


def check_there_and_back(net: nn.Module, x: torch.Tensor) -> None:
    """Outputs stay, the plan counts right, and folding gives the network that it was."""
    net.eval()
    before = {name: bits(one) for name, one in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    out = net(x)
    plan = localize_(net, x)
    assert plan.stored_after == sum(one.numel() for one in net.parameters()) > plan.stored_before
    assert sum(isinstance(one, LocalLayer) for one in net.modules()) == len(plan.rows) > 0
    assert not any(isinstance(one, nn.modules.conv._ConvNd) for one in net.modules())
    assert torch.allclose(net(x), out, rtol=1e-4, atol=1e-5)
    back = fold(net)
    assert {name: bits(one) for name, one in back.state_dict().items()} == before
    assert list(back.state_dict()) == list(before)
    assert [type(module) for module in back.modules()] == kinds
    assert torch.equal(back(x), out)
    assert plan_fold(net).error == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_there_and_back_is_the_same_network(name, dtype):
    net, shape = NETS[name]()
    check_there_and_back(net.to(dtype), torch.randn(shape, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_others(name):
    check_there_and_back(build(f"timm:{name}", in_channels=3, classes=11), torch.randn(2, 3, 32, 32))


X = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 5, 3)
    )


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ({}, ["0", "2", "3"]),
        ({"keep_first": 1}, ["2", "3"]),
        ({"keep_first": 2, "where": "*.weight"}, ["3"]),
        ({"where": "3"}, ["3"]),
        ({"where": ["0", "2"]}, ["0", "2"]),
        ({"where": nn.Conv2d}, ["0", "2", "3"]),
        ({"where": lambda site: site.shape[-1] == 3}, ["0", "3"]),
        ({"where": "[0-2]", "keep_first": 1}, ["2"]),
    ],
)
def test_what_is_named_becomes_local(options, local):
    net = small()
    plan = localize_(net, X, **options)
    assert [row.path for row in plan.rows] == local
    assert [path for path, one in net.named_modules() if isinstance(one, LocallyConnected2d)] == local


class Backwards(nn.Module):
    """Runs its last convolution first, and one of them never."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

    def forward(self, x):
        return self.a(self.c(input=x))


def test_the_first_is_the_first_to_run_and_what_does_not_run_is_left_out():
    net = Backwards()
    plan = localize_(net, X, keep_first=1)
    assert [row.path for row in plan.rows] == ["a"]
    assert plan.left_out == (
        ("c", "kept, by keep_first"),
        ("b", "the example did not run it, so the size of its input is not known"),
    )
    assert localize_(net, {"x": X}).rows[0].path == "c"
    assert net(X).shape == X.shape


class Weird(nn.Conv2d):
    """A class of its own."""


class Sizes(nn.Module):
    """Runs one convolution at two sizes, and one twice at one size."""

    def __init__(self):
        super().__init__()
        self.many, self.twice = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return self.twice(self.twice(self.many(x))).sum() + self.many(x[..., 1:]).sum()


class Asked(nn.Module):
    """Asks for an output of another size than its layer's."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.ConvTranspose2d(2, 2, 3, stride=2), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.out(self.up(x, output_size=[12, 16]))


def hooked() -> nn.Sequential:
    net = small()
    net[0].register_forward_hook(lambda *_: None)
    return net


def tied() -> nn.Sequential:
    net = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2)), nn.Conv2d(2, 2, 1))
    net[1].weight = net[0].weight
    return net


def parametrized() -> nn.Sequential:
    net = small()
    parametrizations.weight_norm(net[0])
    return net


LEFT_OUT = {
    "subclass": (lambda: nn.Sequential(Weird(2, 3, 3), nn.Conv2d(3, 2, 1)), "0", "Weird is a class of its own"),
    "hooks": (hooked, "0", "it has hooks, which would be lost"),
    "tied": (tied, "0", "its weight is one parameter with '1.weight'"),
    "parametrized": (parametrized, "0", "its weight is made by a parametrization"),
    "not run": (Backwards, "b", "the example did not run it"),
    "several sizes": (Sizes, "many", r"it runs at several sizes \(5×7, 5×6\)"),
    "output size": (Asked, "up", r"it is asked for an output of 12×16: say so by its output_padding"),
}


@pytest.mark.parametrize("why", LEFT_OUT)
def test_what_cannot_become_local_is_left_out_or_refused_if_named(why):
    make, path, reason = LEFT_OUT[why]
    net = make()
    before = state(net)
    with pytest.raises((SpecError, AlreadyShared), match=rf"'{path}': {reason}"):
        localize_(net, X, where=path)
    assert state(net) == before
    plan = localize_(net, X)
    assert path in dict(plan.left_out)
    assert path not in [row.path for row in plan.rows]
    assert f"Left out, {len(plan.left_out)}" in str(plan) or "Left out, 1" in str(plan)
    assert type(net.get_submodule(path)) is not LocallyConnected2d


def test_a_complex_convolution_is_left_out():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, dtype=torch.complex64))
    with pytest.raises(NoMatch, match=r"'0': its weight is torch.complex64, and local layers are of floating"):
        localize_(net, X.to(torch.complex64))


def test_one_that_runs_twice_at_one_size_stays_one_layer():
    net = Sizes()
    net.also = net.twice
    localize_(net, X, where="twice")
    assert isinstance(net.twice, LocallyConnected2d)
    assert net.also is net.twice
    back = fold(net)
    assert back.also is back.twice
    assert type(back.twice) is nn.Conv2d


def explode(*_):
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("make", "arguments", "error", "said"),
    [
        (small, {"example_input": torch.zeros(1, 3, 5, 7)}, SpecError, "cannot run on the example input"),
        (small, {"example_input": "image"}, SpecError, "cannot run on the example input"),
        (small, {"example_input": 3}, SpecError, "is of type int: need a tensor, a sequence"),
        (small, {"example_input": X, "where": "4"}, NoMatch, "matches no parameter"),
        (small, {"example_input": X, "where": "1"}, NoMatch, "where='1' matches no convolution of Sequential"),
        (small, {"example_input": X, "keep_first": -1}, SpecError, "keep_first=-1: need a whole number"),
        (small, {"example_input": X, "keep_first": 3}, NoMatch, "'0': kept, by keep_first"),
        (small, {"example_input": X, "keep_first": True}, SpecError, "keep_first=True"),
        (small, {"example_input": X, "eps": -0.1}, SpecError, "eps=-0.1: need a finite number"),
        (small, {"example_input": X, "eps": "a"}, SpecError, "eps='a': need a number"),
        (lambda: nn.Sequential(nn.Linear(7, 3)), {"example_input": X}, NoMatch, "no convolution of Sequential.$"),
        (lambda: nn.Conv2d(2, 3, 3), {"example_input": X}, ModelChanged, "nothing holds it. Wrap it first"),
    ],
)
def test_errors_leave_the_model_bit_for_bit_as_it_was(make, arguments, error, said):
    net = make()
    before = state(net)
    with pytest.raises(error, match=said):
        localize_(net, **arguments)
    assert state(net) == before


def test_a_plan_that_fails_half_way_is_undone(monkeypatch):
    net = small()
    plan = plan_local(net, X)
    net[3] = nn.Conv2d(3, 7, 3)
    before = state(net)
    with pytest.raises(ModelChanged, match="'3' has changed since the plan: got Conv2d"):
        plan.apply_(net)
    assert state(net) == before
    del net[3]
    with pytest.raises(ModelChanged, match="The model has no '3', which the plan makes local"):
        plan.apply_(net)
    assert type(net[0]) is nn.Conv2d


def test_flags_types_and_devices_are_kept():
    net = small().double()
    net[0].weight.requires_grad_(False)
    net[3].eval()
    before = torch.get_rng_state()
    localize_(net, X.double())
    back = fold(net)
    plan_fold(net, X.double())
    assert torch.equal(torch.get_rng_state(), before)
    for one in (net, back):
        assert (one[0].weight.requires_grad, one[0].bias.requires_grad) == (False, True)
        assert [one.training, one[0].training, one[3].training] == [True, True, False]
        assert {tensor.dtype for tensor in one.parameters()} == {torch.float64}
    meta = small().to("meta")
    localize_(meta, X.to("meta"))
    assert meta[0].weight.is_meta


def test_noise_makes_copies_that_differ():
    net = small()
    plan = localize_(net, X, eps=0.5)
    assert "with noise of 0.5" in str(plan)
    assert plan_fold(net).error > 0.1
    assert plan_fold(net).error < 0.7


def test_the_plan_is_a_table():
    text = str(plan_local(small(), X, where="*.weight", keep_first=1))
    assert (
        text
        == """Local layers where '*.weight'

layer         weight    input   positions   stored before   after
─────────────────────────────────────────────────────────────────
2             3×3×1×1   5×7     5×7                     9     315
3             5×3×3×3   5×7     3×5                   140   2,030
whole model                                           212   2,408

848 bytes of parameters before, 9,632 after; multiply-accumulates stay.
Left out, 1: 0: kept, by keep_first."""
    )


def apart() -> nn.Sequential:
    """A network whose kernels and biases of positions differ."""
    torch.manual_seed(3)
    first = LocallyConnected2d(2, 3, 3, (5, 7), padding=1, bias="position")
    nn.init.normal_(first.bias, mean=2.0)
    return nn.Sequential(first, nn.BatchNorm2d(3), nn.Tanh(), LocallyConnected2d(3, 5, 1, (5, 7), bias=False))


def test_the_errors_of_folding_are_what_it_changes():
    net = apart()
    before = state(net)
    plan = plan_fold(net, X)
    assert state(net) == before
    expected = []
    for layer in (net[0], net[3]):
        kernels = layer.weight.detach().double().flatten(0, 1).flatten(1)
        mean = kernels.mean(0)
        expected.append(math.sqrt(float((kernels - mean).square().mean() / mean.square().mean())))
    biases = net[0].bias.detach().double().flatten(0, 1)
    off = float((biases - biases.mean(0)).square().mean() / biases.mean(0).square().mean()) ** 0.5
    assert plan.rows[0].error == pytest.approx(max(expected[0], off), rel=1e-9)
    assert plan.rows[1].error == pytest.approx(expected[1], rel=1e-9)
    assert plan.error == max(row.error for row in plan.rows)
    folded = fold(net, tolerance=math.inf).eval()
    net.eval()
    with torch.no_grad():
        seen = [X, net[:3](X)]
        for row, at, given in zip(plan.rows, (0, 3), seen, strict=True):
            was = net[at](given).double()
            assert row.output_error == pytest.approx(float((folded[at](given) - was).norm() / was.norm()), rel=1e-4)
        whole = float((folded(X) - net(X)).norm() / net(X).norm())
    assert plan.output_error == pytest.approx(whole, rel=1e-4)
    assert (plan.stored_before, plan.stored_after) == (
        sum(one.numel() for one in net.parameters()), sum(one.numel() for one in folded.parameters())
    )  # fmt: skip
    assert str(plan).splitlines()[2].split()[:4] == ["0", "5×7", "1,995", "57"]


def test_means_are_those_of_positions():
    net = apart()
    folded = fold(net, tolerance=math.inf)
    assert torch.allclose(folded[0].weight, net[0].as_conv_weight(net[0].kernels().mean(0)), atol=1e-6)
    assert torch.allclose(folded[0].bias, net[0].bias.mean((0, 1)), atol=1e-6)


def test_kernels_that_differ_are_refused_with_their_layers():
    net = apart()
    before = state(net)
    with pytest.raises(ModelChanged, match=r"Kernels of 2 local layers .*tolerance=0.001 .*'0': .*, '3': "):
        fold(net)
    error = plan_fold(net).error
    with pytest.raises(ModelChanged, match="Kernels of 1 local layer differ"):
        fold(net, tolerance=error * 0.999)
    assert type(fold(net, tolerance=error)[0]) is nn.Conv2d
    assert state(net) == before


@pytest.mark.parametrize("tolerance", [-1, math.nan, "a", None, True])
def test_a_tolerance_is_a_number(tolerance):
    with pytest.raises(SpecError, match=r"tolerance=.*need a number of at least 0"):
        fold(apart(), tolerance=tolerance)


def test_numbers_that_are_none_cannot_be_averaged_but_copied():
    net = small()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = math.nan
    kept = bits(net[0].weight)
    localize_(net, X)
    assert bits(fold(net)[0].weight) == kept
    for value in (math.nan, math.inf):
        with torch.no_grad():
            net[0].weight[1, 2, 0, 0, 1] = value
        with pytest.raises(ModelChanged, match="Kernels of '0' are NaN or infinite"):
            fold(net, tolerance=math.inf)


def test_a_mean_of_zero_is_infinitely_far():
    net = nn.Sequential(LocallyConnected1d(1, 1, 1, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    assert plan_fold(net).error == math.inf
    with pytest.raises(ModelChanged, match="'0': inf"):
        fold(net, tolerance=1e300)
    assert float(fold(net, tolerance=math.inf)[0].weight.detach()) == 0


def test_a_layer_by_itself_folds_too():
    conv = nn.Conv2d(2, 3, 3)
    layer = LocallyConnected2d.from_conv(conv, (5, 7))
    assert torch.equal(fold(layer).weight, conv.weight)
    assert plan_fold(layer, X).output_error == pytest.approx(0, abs=1e-6)
    assert plan_fold(LocallyConnected2d(2, 3, 3, (5, 7)), X).output_error > 0.1


def test_what_has_no_local_layer_has_nothing_to_fold():
    with pytest.raises(NoMatch, match="Sequential has no local layer to fold"):
        plan_fold(small())
    net = small()
    assert [bits(one) for one in fold(net).parameters()] == [bits(one) for one in net.parameters()]
