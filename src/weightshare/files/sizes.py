"""What each tensor of a file takes: dense, as codebook and labels, or as templates and coefficients."""

from dataclasses import dataclass
from pathlib import Path

from weightshare.files import archive


@dataclass(frozen=True)
class Size:
    """Bytes of one tensor of a file, headers not counted.

    Args:
        name: Of the tensor; aliases are not listed, since they take nothing.
        dense: What it takes in memory, once it is loaded dense.
        codebook: What its codebook, or its templates, take on file; 0 if it is stored dense.
        index: What its packed labels, or its coefficients, take on file; 0 if it is stored dense.
    """

    name: str
    dense: int
    codebook: int
    index: int

    @property
    def stored(self) -> int:
        """What it takes on file."""
        return self.codebook + self.index or self.dense


def sizes(path: str | Path) -> list[Size]:
    """List the tensors of a file, by name, with the bytes that they take.

    Args:
        path: A file of ours, whose checksum is verified, or any safetensors file.

    Raises:
        FileError: If the file is cut, damaged or no safetensors file.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(101, 103, bias=False)
        >>> _ = share_(net, Codebook(clusters=16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(net, f"{folder}/net.safetensors")
        ...     sizes(f"{folder}/net.safetensors")
        [Size(name='weight', dense=41612, codebook=64, index=5202)]
    """
    held = archive.read_any(path)
    return [
        Size(name, tensor.nbytes, *(held.coded[name].sizes[:2] if name in held.coded else (0, 0)))
        for name, tensor in sorted(held.described.items())
    ]
