"""The papers' networks in plain torch, and constructors of timm's models and of your own by name."""

from weightshare.models.by_name import build
from weightshare.models.convmixer import ConvMixer, convmixer
from weightshare.models.resnet import ResNet, resnet18_half, resnet20
from weightshare.models.shallow import s_conv, s_fc
from weightshare.models.torus import TorusCNN, TorusMLP, torus_cnn, torus_mlp
from weightshare.models.wrn import WideResNet, swrn, wrn
from weightshare.models.wrn50 import WideResNet50, swrn50, wrn50

__all__ = [
    "ConvMixer",
    "ResNet",
    "TorusCNN",
    "TorusMLP",
    "WideResNet",
    "WideResNet50",
    "build",
    "convmixer",
    "resnet18_half",
    "resnet20",
    "s_conv",
    "s_fc",
    "swrn",
    "swrn50",
    "torus_cnn",
    "torus_mlp",
    "wrn",
    "wrn50",
]
