"""ResNets as He 2015 has them on CIFAR: shortcuts of zeros, published counts, and weights under others' names."""

import pytest
import torch

from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.errors import FileError, SpecError
from weightshare.models import build, resnet20
from weightshare.models.resnet import Padding
from weightshare.models.trained import trained_resnet
from weightshare.verbs import plan


@pytest.mark.parametrize(
    ("blocks", "count", "millions", "tied"),
    [(3, 269_722, "0.27", 172_954), (5, 464_154, "0.46", 270_618), (7, 658_586, "0.66", 368_282),
     (9, 853_018, "0.85", 465_946)],
)  # fmt: skip
def test_counts_of_the_paper(blocks, count, millions, tied):
    """He 2015, table 6; tied at rate 2: two kernels of an equal pair leave one, and an odd one stays."""
    net = resnet20(blocks=blocks, shortcut="pad")
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    assert f"{count / 1e6:.2f}" == millions
    made = plan(net, Tie(rate=2, fuse=mean), "layer*.conv*")
    saved = 2 * (blocks // 2 * 16**2 + (blocks - 1) // 2 * (32**2 + 64**2)) * 9
    assert (made.stored_before, made.stored_after) == (count, tied) == (count, count - saved)
    assert {path.rpartition(".")[0] for left in made.left_out for path in [left.path]} == {
        f"layer{stage}.0.conv{layer}" for stage in (2, 3) for layer in (1, 2)
    }


def test_a_shortcut_of_zeros():
    """Written out: every second pixel, the odd zero behind."""
    x = torch.arange(1.0, 61.0).view(1, 2, 5, 6)
    out = Padding(2, 5, 2)(x)
    assert out.shape == (1, 5, 3, 3)
    assert out[0, 1].tolist() == [[1, 3, 5], [13, 15, 17], [25, 27, 29]]
    assert out[0, 2].tolist() == [[31, 33, 35], [43, 45, 47], [55, 57, 59]]
    assert not out[0, [0, 3, 4]].any()
    assert repr(Padding(2, 5, 2)) == "Padding(zeros=(1, 2), stride=2)"


def test_a_block_adds_the_zeros():
    torch.manual_seed(0)
    net = resnet20((2, 3, 5), blocks=2, shortcut="pad").double().eval()
    x = torch.randn(7, 2, 6, 10, dtype=torch.float64)
    block = net.layer2[0]
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    inner[:, :2] += x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), inner.relu())
    assert not list(block.downsample.parameters())


def test_the_same_draws_as_with_convolutions():
    """What a seed gave before stays."""
    torch.manual_seed(0)
    plain = resnet20((2, 3, 5), blocks=1)
    torch.manual_seed(0)
    same = build("resnet20:2/3/5", blocks=1, shortcut="convolution")
    torch.testing.assert_close(same.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shortcut": "none"}, r"resnet20\(shortcut='none'\): need 'convolution' or 'pad'"),
        ({"shortcut": "pad", "widths": (5, 3, 7)}, r"widths must not fall"),
    ],
)
def test_shortcuts_that_cannot_be(options, said):
    with pytest.raises(SpecError, match=said):
        resnet20(**options)


def theirs(net, shortcut="shortcut"):
    """A state dict as a wrapped network of other names saves it, without counts of batches."""
    names = {name: name.replace("fc.", "linear.").replace("downsample", shortcut) for name in net.state_dict()}
    return {f"module.{names[name]}": value for name, value in net.state_dict().items() if "num_batches" not in name}


@pytest.mark.parametrize("shortcut", ["pad", "convolution"])
def test_weights_under_other_names(shortcut):
    torch.manual_seed(0)
    net = resnet20((2, 3, 5), blocks=2, classes=7, in_channels=1, shortcut=shortcut)
    net(torch.randn(11, 1, 8, 8))  # statistics that are not those of a new network
    before = torch.get_rng_state()
    read = trained_resnet(theirs(net))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(read.eval()(x), net.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("module.linear.weight"), r"of no ResNet of three stages: 'fc.weight' is missing"),
        (lambda state: state.pop("module.layer2.1.bn1.bias"), r"a ResNet of 2 blocks a stage: .*layer2.1.bn1.bias"),
        (lambda state: state.update(more=torch.zeros(2)), r"does not fit a ResNet of 2 blocks"),
        (lambda state: state.update({"module.bn1.bias": torch.zeros(13)}), r"size mismatch for bn1.bias"),
        (lambda state: state.update({"linear.weight": torch.zeros(2)}), r"one layer under two names"),
    ],
    ids=["no classifier", "one missing", "one more", "another shape", "twice"],
)
def test_states_of_other_networks(change, said):
    state = theirs(resnet20((2, 3, 5), blocks=2, shortcut="pad"))
    change(state)
    with pytest.raises(FileError, match=f"(?s){said}"):
        trained_resnet(state)
