"""Checkpoints that are not ours, into a model: its ties are completed, and copies that differ are refused."""

from pathlib import Path

from torch import Tensor, nn

from weightshare.errors import FileError
from weightshare.files.checkpoint import owners, tensors
from weightshare.surgery import compare, edit
from weightshare.surgery.sites import unwrapped


def load_plain(path: str | Path, model: nn.Module) -> nn.Module:
    """Read any safetensors checkpoint into a model that has no plans.

    Where the model holds one parameter under several names, as transformers ties a head to an embedding, a checkpoint
    may hold any one of them, or several that are equal. Loading one of two different copies and dropping the other, as
    `load_state_dict` does, would be a wrong model without a word.

    Args:
        path: A file, an index of several, or a folder with one of both; see `weightshare.tensors`.
        model: Built as it was when the checkpoint was written.

    Returns:
        The same model, changed in place.

    Raises:
        FileError: As `weightshare.tensors`; if a name, shape or dtype differs (the first one is named), or if names
            that the model ties have different numbers. The model is then bit for bit as it was.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, f"{folder}/net.safetensors")
        ...     load_plain(folder, nn.Linear(2, 1)).weight.tolist()
        [[1.0, 1.0]]
    """
    model, held = unwrapped(model), tensors(path)
    owned, aliases = owners(model)
    known = {**{name: name for name in owned}, **aliases}
    for name in held:
        if name not in known:
            raise FileError(f"'{path}' holds '{name}' {tuple(held[name].shape)}, which the model lacks.")
    with edit.transaction(model) as edits:
        for owner, target in owned.items():
            names = [name for name, of in known.items() if of == owner and name in held]
            if not names:
                raise FileError(f"'{path}' lacks '{owner}' {tuple(target.shape)}, which the model has.")
            _expect_fit(path, names, held, target)
            edits.write(target, held[names[0]].to(target.device))
    return model


def _expect_fit(path: str | Path, names: list[str], held: dict[str, Tensor], target: Tensor) -> None:
    if target.is_meta:
        raise FileError(f"Cannot load '{names[0]}': the model is on the meta device. Call to_empty(device=...) first.")
    for name in names:
        value = held[name]
        if (value.shape, value.dtype) != (target.shape, target.dtype):
            raise FileError(
                f"'{name}' in '{path}' is {tuple(value.shape)} {value.dtype}, the model has {tuple(target.shape)} "
                f"{target.dtype}. Build the model as it was when it was saved; model.to(dtype) changes its dtype."
            )
        if not compare.same_numbers(value, held[names[0]]):
            raise FileError(
                f"'{path}' has different numbers for '{names[0]}' and '{name}', which the model ties: one of them "
                "would be lost. Build the model without that tie (transformers: tie_word_embeddings=False)."
            )
