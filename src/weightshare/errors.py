"""Errors: one base class, and a child wherever a caller may want to catch one kind alone; and one class of warnings.

A message says what failed, where, what it got against what it needed, and what to do about it.
"""


class SharingError(ValueError):
    """Base of every error that this library raises on purpose."""


class SpecError(SharingError):
    """A spec, or an argument of a verb, has a value that it cannot have."""


class NoMatch(SharingError):
    """A pattern matches nothing, or nothing that the spec can share."""


class ShapeMismatch(SharingError):
    """Weights that should read one slot differ in shape, dtype, device or `requires_grad`."""


class AlreadyShared(SharingError):
    """A weight that should be shared is already read under several names."""


class ModelChanged(SharingError):
    """The model is not the one that the plan was made for, or its ties have come undone."""


class OptimizerMismatch(SharingError):
    """An optimizer holds tensors that the model no longer reads, or misses a shared slot."""


class FileError(SharingError):
    """A file is cut, edited, or not one of ours."""


class ConfigError(SharingError):
    """A configuration has an unknown key or a value of the wrong kind."""


class TrainingError(SharingError):
    """Training cannot start or go on: missing data, a loss that is not finite, a directory in use."""


class Diverged(TrainingError):
    """The loss of a training, or a weight of its network, is not finite any more."""


class SharingWarning(UserWarning):
    """What is planned can be done, and seldom is what one wants."""
