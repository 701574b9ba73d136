"""Frameworks import torchvision, which may be of another build than torch."""

from weightshare.models.by_name import mend_torchvision

mend_torchvision()
