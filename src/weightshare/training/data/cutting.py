"""Cutout: a square of each image takes the colour of the mean, in one comparison for the whole batch."""

from collections.abc import Callable

from jaxtyping import Float, Int
import torch
from torch import Tensor


def cutting(side: int, fill: Tensor) -> Callable[[Tensor], Tensor]:
    """Make the function that covers a square of each image at a random place.

    Args:
        side: Of the square, in pixels, from 1.
        fill: What is put there, one value for each channel, `(in)`.

    Returns:
        From `(batch, in, h, w)` to the same shape. The centre is any pixel with equal chances, so that much of a square
        may lie outside.
    """

    def cover(images: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch in h w"]:
        count, (height, width) = len(images), images.shape[-2:]
        return covered(images, side, torch.randint(height, (count,)), torch.randint(width, (count,)), fill)

    return cover


def covered(
    images: Float[Tensor, "batch in h w"],
    side: int,
    row: Int[Tensor, " batch"],
    column: Int[Tensor, " batch"],
    fill: Float[Tensor, " in"],
) -> Float[Tensor, "batch in h w"]:
    """Cover a square of each image around a pixel; what of it lies outside the image is left out.

    Args:
        images: Stay as they are.
        side: Of the square: it begins `side // 2` pixels before the centre.
        row: Of the centre, from 0, int64 `(batch)`.
        column: Likewise.
        fill: One value for each channel.

    Example:
        >>> covered(torch.ones(1, 1, 3, 5), 2, torch.tensor([0]), torch.tensor([2]), torch.zeros(1))[0, 0].tolist()
        [[1.0, 0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]
    """

    def within(centre: Tensor, size: int) -> Tensor:
        """Which of the rows, or columns, each square has: `(batch, size)`."""
        past = torch.arange(size) - centre[:, None] + side // 2
        return (past >= 0) & (past < side)

    rows, columns = within(row, images.shape[-2]), within(column, images.shape[-1])
    square = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device, non_blocking=True)
    return torch.where(square, fill.to(images).view(-1, 1, 1), images)
