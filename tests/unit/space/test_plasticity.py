"""Hebbian sleep on real layers against equation 4 on a real image that repeats, shown to the layer itself."""

from itertools import product

import pytest
import torch
from torch import nn

from tests.local_layers import patches
from tests.support import bits, state
from weightshare.errors import SpecError
from weightshare.space import plasticity
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.measure import space_sharing
from weightshare.space.plasticity import Hebbian, relax_
from weightshare.space.sleep import Sleep
from weightshare.space.theory import fixed_point
from weightshare.space.transposed import LocallyConnectedTranspose2d

LAYERS = {
    "1d": lambda: LocallyConnected1d(2, 3, 3, 13),
    "1x1": lambda: LocallyConnected2d(5, 7, 1, (3, 5)),
    "stride": lambda: LocallyConnected2d(2, 3, 3, (17, 13), stride=2),
    "stride and kernel share a divisor": lambda: LocallyConnected2d(2, 3, (4, 3), (13, 11), stride=(2, 3)),
    "borders": lambda: LocallyConnected2d(2, 3, 3, (11, 7), padding=2, bias="position"),
    "borders that reflect": lambda: LocallyConnected2d(2, 3, 3, (11, 7), padding=1, padding_mode="reflect"),
    "groups": lambda: LocallyConnected2d(4, 6, 2, (5, 7), groups=2, bias="position"),
    "rectangular": lambda: LocallyConnected2d(2, 3, (2, 5), (7, 13), padding=(1, 0)),
    "dilation": lambda: LocallyConnected2d(2, 3, 2, (9, 11), dilation=(3, 2)),
    "dilated beyond its kernel": lambda: LocallyConnected1d(2, 3, 4, 23, dilation=2, padding=1),
    "few positions": lambda: LocallyConnected1d(7, 1, 3, 8),
    "3d": lambda: LocallyConnected3d(1, 2, (2, 1, 2), (5, 2, 5), padding=(1, 0, 0)),
}
RULES = {
    "paper": Hebbian(lr=0.05, gamma=0.0, iterations=7, patterns=11),
    "held": Hebbian(lr=lambda step: 0.05 / (1 + step), gamma=0.3, iterations=11, patterns=13, seed=5),
    "once": Hebbian(lr=0.01, gamma=0.1, iterations=1, patterns=1, seed=3),
}


def made(name):
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    nn.init.normal_(layer.bias)
    return layer


def slow_sleep(layer, lattice, rule, strength, seeds):
    """Equation 4 on every position that sees no padding, with the layer's own responses to a repeating image."""
    periods = lattice.periods(layer.axes)
    channels = layer.in_channels // layer.groups
    shape = (layer.groups, channels, *periods)
    labels = lattice.assignment(layer).labels.view(layer.positions)
    whole = [p for p in product(*map(range, layer.positions)) if sees_no_padding(layer, p)]
    classes = {int(labels[p]): [q for q in whole if labels[q] == labels[p]] for p in whole}
    start, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    now = start.clone()
    for rate, drawn in plasticity._Patterns(rule, shape, torch.float64, seeds):
        image = torch.empty(rule.patterns, layer.in_channels, *layer.input_size, dtype=torch.float64)
        for place in product(*map(range, layer.input_size)):
            number = 0
            for at, period in zip(place, periods, strict=True):
                number = number * period + at % period
            image[(..., *place)] = drawn[..., number * channels : (number + 1) * channels].transpose(0, 1).flatten(1)
        quiet = {"weight": now, "bias": torch.zeros_like(layer.bias)}
        response = torch.func.functional_call(layer, quiet, (image,)).detach()  # patterns, out, *positions
        seen = patches(layer, image)  # patterns, *positions, groups, taps·in
        after = now.clone()
        for members in classes.values():
            mean = sum(response[(..., *p)] for p in members) / len(members)
            for p in members:
                z = (response[(..., *p)] - mean).unflatten(1, (layer.groups, -1))
                hebb = torch.einsum("ngo,ngi->gio", z, seen[(slice(None), *p)]) / rule.patterns
                after[p] = now[p] - rate * (hebb + rule.gamma * (now[p] - start[p]))
        now = after
        after = bias.clone()
        for members in classes.values() if bias.ndim > 1 else ():
            mean = sum(bias[p] for p in members) / len(members)
            for p in members:
                held = rule.gamma * (bias[p] - layer.bias.detach()[p])
                after[p] = bias[p] - rate * (bias[p] - mean + held)
        bias = after
    return start + strength * (now - start), layer.bias.detach() + strength * (bias - layer.bias.detach())


def sees_no_padding(layer, position):
    for at, axis in zip(position, layer.axes, strict=True):
        first = axis.stride * at - axis.low
        if first < 0 or first + axis.dilation * (axis.kernel - 1) >= axis.size:
            return False
    return True


@pytest.fixture
def paths(monkeypatch):
    """Which of the two ways kernels went, whole sleeps as one matrix or step by step."""
    taken = []
    for name in ("_transfer", "_stepped"):
        inner = getattr(plasticity, name)
        monkeypatch.setattr(plasticity, name, lambda *a, inner=inner, name=name: (taken.append(name), inner(*a))[1])
    return taken


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_equation_4_on_a_repeating_image(name, rule, strength):
    layer = made(name)
    weight, bias = slow_sleep(layer, Lattice(), RULES[rule], strength, (2, 1))
    before = layer.weight.detach().clone()
    relax_(layer, Lattice(), RULES[rule], strength, (2, 1))
    assert not torch.equal(layer.weight, before)
    assert torch.allclose(layer.weight, weight, rtol=0, atol=1e-10)
    assert torch.allclose(layer.bias, bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "way"), [("stride", "_transfer"), ("few positions", "_stepped")])
def test_both_ways_are_taken_and_agree(name, way, paths, monkeypatch):
    layer, twin = made(name), made(name)
    relax_(layer, Lattice(), RULES["held"], 1.0, (0, 0))
    assert set(paths) == {way}
    monkeypatch.setattr(plasticity, "_transfer", lambda *_: None)
    relax_(twin, Lattice(), RULES["held"], 1.0, (0, 0))
    assert "_stepped" in paths
    assert torch.allclose(layer.weight, twin.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lattice", [Lattice(period=5), Lattice(borders="apart"), Lattice(period=7, borders="apart")])
@pytest.mark.parametrize("name", ["1d", "borders", "stride", "groups"])
def test_other_periods_and_borders(name, lattice):
    rule = Hebbian(lr=0.05, gamma=0.1, iterations=5, patterns=23)
    layer = made(name)
    weight, bias = slow_sleep(layer, lattice, rule, 1.0, (0, 0))
    relax_(layer, lattice, rule, 1.0, (0, 0))
    assert torch.allclose(layer.weight, weight, rtol=0, atol=1e-10)
    assert torch.allclose(layer.bias, bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["borders", "borders that reflect", "rectangular"])
def test_positions_that_see_padding_stay_as_they_are(name):
    layer = made(name)
    before = layer.weight.detach().clone()
    relax_(layer, Lattice(), RULES["paper"], 1.0, (0, 0))
    border = [p for p in product(*map(range, layer.positions)) if not sees_no_padding(layer, p)]
    assert border
    for p in border:
        assert torch.equal(layer.weight[p], before[p])
    assert len(border) < len(layer.kernels())


@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_a_long_sleep_ends_at_the_fixed_point(gamma):
    """Eq. 5, for inputs of unit covariance: what is left of the differences is γ/(1 + γ)."""
    layer = LocallyConnected1d(2, 3, 3, 25, bias="position", dtype=torch.float64)
    nn.init.normal_(layer.bias)
    start, biases = layer.weight.detach().clone(), layer.bias.detach().clone()
    rule = Hebbian(lr=lambda step: 0.3 / (1 + step / 5), gamma=gamma, iterations=300, patterns=1999)
    relax_(layer, Lattice(), rule, 1.0, (0, 0))
    for label in range(3):
        kernels = start[label::3].flatten(1, 2)  # members, inputs, out
        wanted = torch.stack(
            [fixed_point(one, torch.eye(6, dtype=torch.float64), gamma) for one in kernels.permute(2, 0, 1)], -1
        )
        assert torch.allclose(layer.weight[label::3].flatten(1, 2), wanted, rtol=0, atol=0.01)
        mean = biases[label::3].mean(0)
        left = mean + gamma / (1 + gamma) * (biases[label::3] - mean)
        assert torch.allclose(layer.bias[label::3], left, rtol=0, atol=0.01)


def test_the_paper_s_settings_share_almost_all():
    torch.manual_seed(0)
    layer = LocallyConnected2d(16, 16, 3, 16, padding=1, stride=2, bias=False)
    whole = layer.weight[1:, 1:].detach().clone()
    Sleep(mode="hebbian").now_(layer)
    inner = nn.Sequential(LocallyConnected2d(16, 16, 3, 15, stride=2, bias=False))[0]
    with torch.no_grad():
        inner.weight.copy_(whole)
        before = space_sharing(inner).within
        inner.weight.copy_(layer.weight[1:, 1:])
    assert before < 1
    assert space_sharing(inner).within > 1e4


def test_noise_leaves_a_floor_and_moves_the_mean():
    rules = {noise: Hebbian(noise=noise, iterations=50, patterns=97) for noise in (0.0, 0.5, 1.0)}
    found, means = {}, {}
    for noise, rule in rules.items():
        layer = made("1d")
        relax_(layer, Lattice(), rule, 1.0, (0, 0))
        found[noise] = space_sharing(layer).within
        means[noise] = layer.weight.detach().mean(0)
    assert found[0.0] > 2 * found[0.5] > 4 * found[1.0] > 1
    assert torch.allclose(means[0.0], made("1d").weight.detach().mean(0), atol=1e-12)
    assert not torch.allclose(means[1.0], means[0.0], atol=1e-3)


def test_noise_is_that_of_the_equation_on_average():
    """To first order the mean of a class moves by −η σ² (w_i − …): noise is independent of the pattern."""
    layer = LocallyConnected1d(1, 1, 1, 2, bias=False, dtype=torch.float64)
    start = torch.tensor([3.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start.view(2, 1, 1, 1))
    relax_(layer, Lattice(), Hebbian(lr=0.1, gamma=0.0, iterations=1, patterns=400_009, noise=0.5), 1.0, (0, 0))
    # z_i = w_i (x + n_i): E[(z_i − mean_j z_j)(x + n_i)] = (w_i − mean_j w_j) + σ² w_i (1 − 1/2)
    wanted = start - 0.1 * ((start - 2) + 0.25 * start / 2)
    assert torch.allclose(layer.weight.flatten(), wanted, atol=2e-3)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_same_seed_is_the_same_sleep(noise):
    rule = Hebbian(noise=noise, iterations=3, seed=11)
    first, again, other = made("stride"), made("stride"), made("stride")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    relax_(first, Lattice(), rule, 1.0, (3, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    relax_(again, Lattice(), rule, 1.0, (3, 2))
    assert bits(first.weight) == bits(again.weight)
    relax_(other, Lattice(), Hebbian(noise=noise, iterations=3, seed=12), 1.0, (3, 2))
    assert bits(first.weight) != bits(other.weight)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_every_sleep_and_every_layer_draws_its_own(noise):
    rule = Hebbian(noise=noise, iterations=3)
    ends = set()
    for seeds in product(range(3), range(3)):
        layer = made("1d")
        relax_(layer, Lattice(), rule, 1.0, seeds)
        ends.add(bits(layer.weight))
    assert len(ends) == 9


def test_noise_of_classes_and_layers_has_seeds_of_its_own():
    drawn = set()
    for sleep, layer, label in product(range(7), range(11), range(101)):
        show = plasticity._Patterns(Hebbian(), (1, 1, 1), torch.float32, (sleep, layer))
        drawn.add(show.noise(label).initial_seed())
        drawn.add(show.seed)
    assert len(drawn) == 7 * 11 * 102


def test_layers_of_a_network_and_sleeps_in_a_row_differ():
    layers = [made("1d") for _ in range(2)]
    net = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = Sleep(mode=Hebbian(iterations=1)).attach_(optimizer, net)
    start = layers[0].weight.detach().clone()
    handle.now()
    first = bits(layers[0].weight)
    assert first != bits(layers[1].weight)
    with torch.no_grad():
        layers[0].weight.copy_(start)
    handle.now()
    assert bits(layers[0].weight) != first


@pytest.mark.parametrize("seed", [0, 2**62, 2**63 - 1, 10**30])
def test_any_seed(seed):
    layer = made("1d")
    Sleep(mode=Hebbian(seed=seed, noise=0.1, iterations=1)).now_(layer)
    assert layer.weight.isfinite().all()


@pytest.mark.parametrize("lattice", [Lattice(), Lattice(period=5)])
@pytest.mark.parametrize("lr", [2.5, 1e30])
def test_too_high_a_learning_rate_is_refused(lr, lattice):
    layer = made("stride")
    before = bits(layer.weight)
    with pytest.raises(
        SpecError, match=r"Sleep on '0': Hebbian sharing (moved kernels apart|did not stay finite).*Lower"
    ):
        Sleep(mode=Hebbian(lr=lr), lattice=lattice).now_(nn.Sequential(layer))
    assert bits(layer.weight) == before


@pytest.mark.parametrize("lattice", [Lattice(), Lattice(period=4), Lattice(period=7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [13, 23, 47])
def test_kernels_that_are_equal_already_are_not_refused_and_stay(size, dtype, lattice):
    layer = LocallyConnected1d(5, 7, 3, size, dtype=dtype)
    layer.reset_parameters(eps=0.0)
    before = layer.weight.detach().clone()
    Sleep(mode="hebbian", lattice=lattice).now_(layer)
    assert torch.allclose(layer.weight, before, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("lattice", "said"),
    [
        (Lattice(period=2), "with an input of period 2, taps of a kernel of 3 .* Need a period of at least 3"),
        (Lattice(labels=(0,) * 48), "needs an input that repeats"),
    ],
)
def test_a_lattice_that_cannot_tell_taps_apart_is_refused(lattice, said):
    layer = LocallyConnected2d(2, 3, 3, (10, 8))
    before = state(layer)
    with pytest.raises(SpecError, match=said):
        Sleep(mode="hebbian", lattice=lattice).now_(layer)
    assert state(layer) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1.0}, r"Hebbian\(lr\)=-1.0"),
        ({"lr": "fast"}, r"Hebbian\(lr\)='fast'"),
        ({"gamma": -1e-9}, r"Hebbian\(gamma\)"),
        ({"iterations": 0}, r"Hebbian\(iterations\)=0"),
        ({"patterns": 2.5}, r"Hebbian\(patterns\)=2.5"),
        ({"noise": float("inf")}, r"Hebbian\(noise\)=inf"),
        ({"seed": -1}, r"Hebbian\(seed\)=-1"),
    ],
)
def test_values_that_cannot_be(options, said):
    with pytest.raises(SpecError, match=said):
        Hebbian(**options)
    with pytest.raises(SpecError, match=r"lr\(0\)=-1"):
        Sleep(mode=Hebbian(lr=lambda _: -1)).now_(made("1d"))


def test_a_transposed_layer_shares_as_the_layer_that_it_transposes():
    layer = LocallyConnectedTranspose2d(2, 3, 3, (7, 8), bias="position", dtype=torch.float64)
    before, bias = space_sharing(layer), bits(layer.bias)
    mean = layer.kernels().detach().mean(0)
    Sleep(mode="hebbian").now_(layer)
    assert space_sharing(layer).within > 1e6 * before.within
    assert torch.allclose(layer.kernels().mean(0), mean, atol=1e-12)
    assert bits(layer.bias) == bias
