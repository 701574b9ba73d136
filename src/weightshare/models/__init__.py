"""The papers' networks in plain torch, and constructors of timm's models and of your own by name."""

from weightshare.models.by_name import build
from weightshare.models.convmixer import ConvMixer, convmixer

__all__ = ["ConvMixer", "build", "convmixer"]
