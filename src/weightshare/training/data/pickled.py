"""Batches of the python version of CIFAR: what they hold is read off the pickle's opcodes, and nothing is unpickled.

A pickle is a program; unpickling runs it. `pickletools.genops` only lists its instructions, and the two that matter say
what they hold: the string of pixels, and the labels, numbers one after the other. This is enough for the official
files, whose checksum is known before they come here, and for those alone.
"""

import pickletools

import numpy as np

from weightshare.errors import FileError

KEYS = frozenset({"batch_label", "labels", "fine_labels", "coarse_labels", "data", "filenames"})
NUMBERS = frozenset({"BININT", "BININT1", "BININT2"})
STRINGS = frozenset({"BINSTRING", "SHORT_BINSTRING"})
"""Python 2's strings of bytes; `pickletools` gives them as Latin-1 text."""


def pickled_batch(content: bytes, key: str, pixels: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Flat images and labels of a batch.

    Args:
        content: The file, whose checksum was checked.
        key: Of the labels: `labels` or `fine_labels`.
        pixels: Values of one image.
        name: Of the file, for messages.

    Returns:
        Bytes `(n, pixels)` and labels `(n)`.

    Raises:
        FileError: If it is no such batch.
    """
    entry, data, labels = "", b"", []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in STRINGS and isinstance(argument, str):
                if argument in KEYS:
                    entry = argument
                elif entry == "data":  # the last one; those before it name the kind of number and its order
                    data = argument.encode("latin-1")
            elif opcode.name in NUMBERS and entry == key:
                labels.append(argument)
    except ValueError as error:  # what genops raises for all that is no pickle, or cut
        raise FileError(f"'{name}' is no batch of CIFAR: {error}.") from error
    if not labels or len(data) != len(labels) * pixels:
        raise FileError(f"'{name}' has {len(labels)} labels and {len(data):,} pixels, need {pixels:,} pixels a label.")
    return np.frombuffer(data, np.uint8).reshape(-1, pixels), np.array(labels, dtype=np.int64)
