"""Trained ResNets of small images, as others saved them: from the names and shapes of a state dict to our network.

What is read is a mapping of names to tensors, wherever it comes from: files of safetensors, or of
`torch.load(..., weights_only=True)`. No pickle is opened here.
"""

from collections.abc import Mapping
import re

import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.models.resnet import ResNet, resnet20

OURS = ((r"^module\.", ""), (r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample."))
"""Names that others use, and ours: of a wrapper, the classifier, and shortcuts."""


def trained_resnet(state: Mapping[str, Tensor]) -> ResNet:
    """Build the ResNet of small images that a state dict belongs to, with its weights and statistics.

    Widths, blocks, classes and kind of shortcut are read off names and shapes. A prefix `module.` is dropped, `linear`
    is the classifier `fc`, and `shortcut` is `downsample`; all else has torchvision's names. Nothing is left over and
    nothing is missing, but for counts of batches, which old files do not have.

    Args:
        state: Tensors by name, of a network of three stages of blocks of two 3×3 convolutions (He 2015, section 4.2).

    Returns:
        A `resnet20` of as many blocks, in float32, on the CPU, in training mode as every new module is.

    Raises:
        FileError: If the names or shapes are of another network.

    Source: He 2015, section 4.2. Differs: nothing.

    Example:
        >>> net = resnet20((2, 3, 5), blocks=2, shortcut="pad")
        >>> state = {f"module.{name}".replace("fc", "linear"): tensor for name, tensor in net.state_dict().items()}
        >>> torch.equal(trained_resnet(state).fc.weight, net.fc.weight)
        True
    """
    named = {_our(name): tensor for name, tensor in state.items()}
    if len(named) != len(state):
        raise FileError("The state dict holds one layer under two names: give it with or without 'module.', not both.")
    try:
        widths = [named[f"layer{stage}.0.conv2.weight"].shape[0] for stage in (1, 2, 3)]
        in_channels, classes = named["conv1.weight"].shape[1], named["fc.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise FileError(
            f"The state dict is of no ResNet of three stages: {error} is missing, got {', '.join([*named][:5])}, ..."
        ) from error
    blocks = len({name.split(".")[1] for name in named if name.startswith("layer1.")})
    shortcut = "convolution" if any(".downsample." in name for name in named) else "pad"
    with torch.random.fork_rng(devices=[]):  # its first weights are replaced: nobody's draws should change for them
        net = resnet20(widths, blocks, classes, in_channels, shortcut)
    counts = {name: tensor for name, tensor in net.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        net.load_state_dict({**counts, **named})
    except RuntimeError as error:
        raise FileError(f"The state dict does not fit a ResNet of {blocks} blocks a stage: {error}") from error
    return net


def _our(name: str) -> str:
    for theirs, our in OURS:
        name = re.sub(theirs, our, name)
    return name
