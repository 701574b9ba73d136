"""Rows of a fully connected layer as images: are they local, and are they translations of one another?

Positions lie on a torus, so a translation is a cyclic shift; on images with borders read the numbers as lower bounds.
"""

from typing import TYPE_CHECKING

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.analysis.pictures import INK
from weightshare.errors import SpecError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def window_energy(filters: Float[Tensor, "n h w"], size: int = 3) -> Float[Tensor, " n"]:
    """How local each filter is: the greatest share of its energy (sum of squares) in one `size × size` window.

    Args:
        filters: Images on a torus.
        size: Side of the window, from 1 to the shorter side of the images.

    Returns:
        From `size²/(h·w)`, energy spread evenly, to 1, all of it in one window; 0 for a filter of zeros.

    Raises:
        SpecError: If the size is out of its range.

    Example:
        >>> spot = torch.zeros(1, 7, 7)
        >>> spot[0, 6, 0] = 2.0
        >>> window_energy(torch.cat([spot, torch.ones(1, 7, 7)]))
        tensor([1.0000, 0.1837])
    """
    height, width = filters.shape[1:]
    if not 1 <= size <= min(height, width):
        raise SpecError(f"window_energy(size={size}): need 1 to {min(height, width)}.")
    energy = filters.double().square()
    wrapped = torch.nn.functional.pad(energy[:, None], (0, size - 1, 0, size - 1), mode="circular")[:, 0]
    windows = torch.nn.functional.avg_pool2d(wrapped, size, stride=1) * size**2
    total = energy.sum((1, 2))
    return torch.where(total > 0, windows.amax((1, 2)) / total.clamp_min(1e-300), 0.0).clamp_max(1.0).to(filters.dtype)


def translated_similarity(filters: Float[Tensor, "n h w"]) -> Float[Tensor, "n n"]:
    """For each pair of filters the greatest cosine over all cyclic shifts of one against the other.

    Args:
        filters: Images on a torus. Memory is `n²·h·w` numbers; take a sample of a large layer.

    Returns:
        Symmetric, 1 on the diagonal and for exact translations, 0 where a filter is all zeros.

    Example:
        >>> one = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
        >>> translated_similarity(torch.cat([one, one.roll((2, 3), (1, 2))])).round(decimals=3)
        tensor([[1., 1.],
                [1., 1.]])
    """
    norms = filters.double().flatten(1).norm(dim=1)
    spectra = torch.fft.rfft2(filters.double() / norms.clamp_min(1e-300)[:, None, None])
    shifts = torch.fft.irfft2(spectra[:, None] * spectra.conj()[None], s=filters.shape[1:])
    cosines = shifts.amax((2, 3)).clamp(-1, 1)
    return torch.where((norms > 0)[:, None] & (norms > 0)[None], cosines, 0.0).to(filters.dtype)


def aligned(filters: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Each filter shifted around so that it fits the first one best; then translations look equal.

    Example:
        >>> one = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(aligned(torch.cat([one, one.roll((2, 3), (1, 2))]))[1], one[0])
        True
    """
    spectra = torch.fft.rfft2(filters.double())
    shifts = torch.fft.irfft2(spectra[:1] * spectra.conj(), s=filters.shape[1:])
    best = shifts.flatten(1).argmax(1)
    width = filters.shape[2]
    return torch.stack(
        [one.roll((int(at) // width, int(at) % width), (0, 1)) for one, at in zip(filters, best, strict=True)]
    )


def draw_filters(rows: dict[str, Float[Tensor, "n h w"]], columns: int = 16) -> "Figure":
    """Draw filters as small images, a band of rows for each name; red is positive, blue negative, each band scaled.

    Args:
        rows: For each name its filters.
        columns: How many stand side by side.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    heights = [-(-len(filters) // columns) for filters in rows.values()]
    side = 0.52
    figure = Figure(figsize=(columns * side, sum(heights) * side + 0.32 * len(rows)), layout="constrained")
    bands = figure.subfigures(len(rows), 1, height_ratios=[h * side + 0.32 for h in heights], squeeze=False)[:, 0]
    for band, (name, filters) in zip(bands, rows.items(), strict=True):
        count, height, width = filters.shape
        lines = -(-count // columns)
        sheet = torch.full((lines * (height + 1) - 1, columns * (width + 1) - 1), torch.nan)
        for number, one in enumerate(filters):
            top, left = number // columns * (height + 1), number % columns * (width + 1)
            sheet[top : top + height, left : left + width] = one
        most = float(filters.abs().max()) or 1.0
        axes = band.subplots()
        axes.imshow(sheet.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name, color=INK, fontsize=9)
    return figure
