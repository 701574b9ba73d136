"""The papers' networks in plain torch, and constructors of other libraries' models by name."""

from weightshare.models.build import build
from weightshare.models.convmixer import ConvMixer, convmixer

__all__ = ["ConvMixer", "build", "convmixer"]
