"""Images mixed in pairs, and their labels with them: mixup and CutMix."""

from collections.abc import Callable

from jaxtyping import Float, Int
import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn.functional import one_hot

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixing(mixup: float, cutmix: float, classes: int) -> Mix:
    """Make the function that mixes a batch with itself in another order.

    Args:
        mixup: α of mixup, 0 for none.
        cutmix: α of CutMix, 0 for none; at least one of the two is more.
        classes: Number of classes.

    Returns:
        From images `(batch, in, h, w)` and labels `(batch)` to images and float32 targets `(batch, classes)`.
    """

    def mix(
        images: Float[Tensor, "batch in h w"], labels: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch in h w"], Float[Tensor, "batch classes"]]:
        cut = cutmix > 0 and (mixup == 0 or bool(torch.rand(()) < 0.5))
        share = float(_share(cutmix if cut else mixup))
        partner = torch.randperm(len(images)).to(images.device)
        if cut:
            # One random point in the image: the middle of the rectangle, which is cut off at the edges.
            row, column = (torch.rand(2) * torch.tensor(images.shape[-2:])).long().tolist()
            images, share = cut_in(images, images[partner], share, row, column)
        else:
            images = share * images + (1 - share) * images[partner]
        targets = one_hot(labels, classes).to(images.dtype)
        return images, share * targets + (1 - share) * targets[partner]

    return mix


def _share(alpha: float) -> Tensor:
    """λ of Beta(α, α); in double precision, as a small α draws numbers that single precision rounds to a NaN."""
    both = torch.tensor(alpha, dtype=torch.float64)
    return Beta(both, both).sample()


def cut_in(images: Tensor, others: Tensor, share: float, row: int, column: int) -> tuple[Tensor, float]:
    """Put a rectangle of other images into images (CutMix, equations 1 and 2).

    Args:
        images: `(batch, in, h, w)`; stay as they are.
        others: As many, of the same shape.
        share: λ, how much of the area should stay, 0 to 1: the sides are those of the image times √(1 - λ).
        row: Middle of the rectangle.
        column: Likewise.

    Returns:
        The images, and how much of their area did stay: less is cut where the rectangle leaves the image.
    """
    height, width = images.shape[-2:]
    tall, wide = (int(side * (1 - share) ** 0.5) for side in (height, width))
    top, left = max(0, row - tall // 2), max(0, column - wide // 2)
    bottom, right = min(height, row - tall // 2 + tall), min(width, column - wide // 2 + wide)
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)
