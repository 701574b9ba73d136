"""The patch-wise projections of vision transformers, with a weight of their own for each patch.

A transformer multiplies the `N` patches of an image, `Z` of `(N, D)`, by one matrix: `Z' = Z U`. That is weight sharing
over patches, as a convolution's is over positions. A `PatchLinear` has a `U_i` for each: `Z'_i = Z_i U_i`. Each of the
`D` inputs forms one grid over the patches, so all patches are one class of the `Lattice`, and `Sleep`, `space_sharing`
and `fold` do with it what they do with any local layer.

The same holds for all linear layers that a transformer applies to each token: queries, keys and values, the projection
behind attention, and the two of its MLP. The patch embedding is a convolution whose stride is its kernel's size:
`localize_` makes it a `LocallyConnected2d`, whose positions are one class as well.

In the grid: across positions, nothing shared. Source: Pogodin 2021, A.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Self

import torch
from torch import Tensor, nn

from weightshare._typing import Where
from weightshare.errors import ShapeMismatch, SpecError
from weightshare.hooks import expect_count
from weightshare.space.convert import Kind, LocalPlan, Sizes, plan_kind
from weightshare.space.convolutional import Bias
from weightshare.space.layer import Axis, LocalLayer, cast_for_autocast, unfilled


class PatchLinear(LocalLayer):
    """`nn.Linear` with a weight of its own for each token.

    `out[n, i, o] = Σ_k x[n, i, k] · weight[i, 0, k, o]`, plus a bias. It reads all its weights for every batch, which
    is what its time goes into where batches are small.

    Args:
        in_features: Numbers of a token.
        out_features: Numbers of a token of the output.
        tokens: How many there are, those of the prefix included. Other counts are refused, since they have no weights.
        bias: `True` is one for all tokens, as of `nn.Linear`; `"position"` one for each token; or `False`.
        prefix: How many tokens in front are no patches, such as class, distillation and register tokens. They have
            weights of their own in any case; this says only how they sleep. With 0 they count as patches, so that all
            tokens share, as in a transformer. With more they stand beside the grid, as positions that see padding do:
            instant sharing takes them along, or by `Lattice(borders="apart")` makes them a class of their own, and
            Hebbian sharing, whose patterns are shown to the grid, leaves them as they are.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        SpecError: If an argument has a value that it cannot have.

    Source: Pogodin 2021, A.4. Differs: there it is the first product of a transformer, without biases or a class token;
    the start is that of `nn.Linear`, since none is given.

    Example:
        >>> layer = PatchLinear(2, 3, tokens=5)
        >>> layer(torch.randn(7, 5, 2)).shape, layer.weight.shape, layer.bias.shape
        (torch.Size([7, 5, 3]), torch.Size([5, 1, 2, 3]), torch.Size([3]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        tokens: int,
        bias: Bias = True,
        prefix: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = expect_count("PatchLinear: in_features", in_features, 1)
        self.out_features = expect_count("PatchLinear: out_features", out_features, 1)
        self.tokens = expect_count("PatchLinear: tokens", tokens, 1)
        self.prefix = expect_count("PatchLinear: prefix", prefix, 0)
        if prefix >= tokens:
            raise SpecError(f"PatchLinear: prefix={prefix} of tokens={tokens} leaves no patch.")
        if bias not in (True, False, "position"):
            raise SpecError(f"PatchLinear: bias={bias!r}, need True (for all tokens), False or 'position'.")
        self.weight = nn.Parameter(torch.empty(tokens, 1, in_features, out_features, device=device, dtype=dtype))
        if bias is False:
            self.register_parameter("bias", None)
        else:
            at = (tokens,) if bias == "position" else ()
            self.bias = nn.Parameter(torch.empty(*at, out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self, eps: float | None = None) -> None:
        """Draw new weights and biases as `nn.Linear` does, from `U(−1/√in, 1/√in)`.

        Args:
            eps: `None` draws every token by itself. A number starts from one weight for all tokens, `U`, and makes that
                of each `(U + eps·noise)/√(1 + eps²)`, so that every weight keeps its variance.
        """
        bound = 1 / sqrt(self.in_features)
        with torch.no_grad():
            if eps is None:
                self.weight.uniform_(-bound, bound)
            else:
                kernel = torch.empty_like(self.weight[0]).uniform_(-bound, bound)
                self._fill(kernel, eps, bound / sqrt(3))
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)
                if eps is not None and self.bias.ndim > 1:
                    self.bias.copy_(self.bias[:1].clone().expand_as(self.bias))

    @classmethod
    def from_linear(
        cls, linear: nn.Module, tokens: int, eps: float = 0.0, bias: Bias | None = None, prefix: int = 0
    ) -> Self:
        """A layer that computes what a linear layer does, with a copy of its weight for each token.

        Args:
            linear: A plain `nn.Linear`. Its weights stay as they are.
            tokens: How many it will see, those of the prefix included.
            eps: Noise, relative to the standard deviation of the weight's numbers: a token reads
                `(U + eps·noise)/√(1 + eps²)`. 0 copies.
            bias: `"position"` gives each token a copy of the biases; `None` leaves them as the linear layer has them;
                `True` adds biases of 0 where it has none, and `False` drops them.
            prefix: As for the class.

        Returns:
            The layer, on the device and of the type of the linear one.

        Raises:
            SpecError: If `linear` is of another kind, or an argument has a value that it cannot have.

        Example:
            >>> linear, x = nn.Linear(2, 3), torch.randn(7, 5, 2)
            >>> local = PatchLinear.from_linear(linear, tokens=5)
            >>> torch.allclose(local(x), linear(x), atol=1e-6)
            True
        """
        if type(linear) is not nn.Linear:
            raise SpecError(f"{cls.__name__}.from_linear: got {type(linear).__name__}, need a plain nn.Linear.")
        weight: Tensor = linear.weight
        wanted = bias if bias is not None else linear.bias is not None
        sizes = (linear.in_features, linear.out_features, tokens, wanted, prefix)
        made = unfilled(cls, *sizes, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            deviation = float(weight.float().std(correction=0)) if eps and not weight.is_meta else 0.0
            made._fill(weight.mT.unsqueeze(0), eps, deviation)
            if made.bias is not None and linear.bias is not None:
                made.bias.copy_(linear.bias.expand_as(made.bias))
            elif made.bias is not None:
                made.bias.zero_()
        made.weight.requires_grad_(weight.requires_grad)
        if made.bias is not None and linear.bias is not None:
            made.bias.requires_grad_(linear.bias.requires_grad)
        return made.train(linear.training)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One, of kernels of one tap; tokens of the prefix lie before the map."""
        return (Axis(self.tokens, self.tokens - self.prefix, low=self.prefix),)

    def shared(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        factory = {"device": weight.device, "dtype": weight.dtype}
        linear = unfilled(nn.Linear, self.in_features, self.out_features, bias is not None, **factory)
        with torch.no_grad():
            linear.weight.copy_(weight[0].mT)
            if bias is not None:
                linear.bias.copy_(bias)
        return linear

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: `(..., tokens, in)`, with any number of leading dimensions or none.

        Returns:
            `(..., tokens, out)`, contiguous in memory.

        Raises:
            ShapeMismatch: If the input has other tokens, or numbers of a token.
        """
        if input.ndim < 2 or input.shape[-1] != self.in_features or input.shape[-2] != self.tokens:
            raise ShapeMismatch(
                f"PatchLinear: got an input of shape {tuple(input.shape)}, need (batch, {self.tokens}, "
                f"{self.in_features}): it has one weight for each of {self.tokens} tokens. Give images of the size "
                "that it was made for, with all their patches, or make the layer for theirs."
            )
        read, weight, bias = cast_for_autocast(input, self.weight, self.bias)
        assert read is not None
        assert weight is not None
        by_token = read.reshape(-1, *read.shape[-2:]).transpose(0, 1)  # tokens, batch, in: a view, which bmm reads
        if bias is None:
            out = torch.bmm(by_token, weight.squeeze(1))
        else:
            at = bias.unsqueeze(1) if bias.ndim > 1 else bias.expand(self.tokens, 1, -1)
            out = torch.baddbmm(at, by_token, weight.squeeze(1))
        return out.transpose(0, 1).reshape(*input.shape[:-1], self.out_features).contiguous()

    def extra_repr(self) -> str:
        own = "'position'" if self.bias_at_positions() else str(self.bias is not None)
        text = f"in_features={self.in_features}, out_features={self.out_features}, tokens={self.tokens}, bias={own}"
        return f"{text}, prefix={self.prefix}" if self.prefix else text


@dataclass(frozen=True)
class PatchProjections(Kind):
    """Linear layers that a network applies to each token.

    Args:
        prefix: Of the layers; see `PatchLinear`.

    Raises:
        SpecError: If it is no whole number of at least 0.
    """

    prefix: int = 0

    noun = "linear layer"
    base = nn.Linear
    exact = frozenset({nn.Linear})

    def __post_init__(self) -> None:
        expect_count("prefix", self.prefix, 0)

    def sizes(self, layer: nn.Module, given: Tensor, output: Tensor) -> Sizes:
        return tuple(given.shape[1:-1]), tuple(output.shape[1:-1])

    def positions(self, layer: nn.Module, sizes: Sizes) -> tuple[int, ...]:
        return sizes[0]

    def local(self, layer: nn.Module, input_size: tuple[int, ...], eps: float) -> PatchLinear:
        return PatchLinear.from_linear(layer, input_size[0], eps, prefix=self.prefix)

    def again(self, example_input: Any) -> Any:
        """The example with each of its images twice: tokens that grow with the batch are none."""
        from torch.utils._pytree import tree_map

        def twice(leaf: Any) -> Any:
            return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf

        return tree_map(twice, example_input)

    def held(self, owner: nn.Module) -> str:
        if isinstance(owner, nn.TransformerEncoderLayer):
            return f"{type(owner).__name__} reads the weight itself when it evaluates, past the layer"
        if isinstance(owner, nn.TransformerDecoderLayer) and not owner.self_attn.batch_first:
            return "its input is (tokens, batch, in), and a layer for each token needs (batch, tokens, in)"
        return ""

    def unfit(self, layer: nn.Module, sizes: Sequence[Sizes]) -> str:
        given = [size for size, _ in sizes]
        axes = [len(size) + 2 for size in given if len(size) != 1]
        if axes:
            return f"its input has {axes[0]} axes, and a layer for each token needs (batch, tokens, in)"
        counts = [size[0] for size in given]
        if len(counts) > 1:
            return (
                f"it sees several numbers of tokens ({', '.join(map(str, counts))}), in the example or in a batch "
                "twice as large, and its weights would be for one"
            )
        if counts[0] <= self.prefix:
            return f"it sees tokens of the prefix alone ({counts[0]} with prefix={self.prefix}), and no patch"
        return ""


def plan_patches(
    model: nn.Module, example_input: Any, where: Where = None, eps: float = 0.0, prefix: int = 0
) -> LocalPlan:
    """See `patchwise_`, which applies what this plans.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2))
        >>> plan = plan_patches(net, torch.zeros(1, 5, 2), where="2")
        >>> plan.stored_before, plan.stored_after
        (17, 41)
    """
    return plan_kind(PatchProjections(prefix), model, example_input, where, eps=eps)


def patchwise_(
    model: nn.Module, example_input: Any, where: Where = None, eps: float = 0.0, prefix: int = 0
) -> LocalPlan:
    """Give each token a weight of its own in linear layers of a vision transformer. Outputs stay as they are.

    The layers are those whose input is `(batch, tokens, in)`. Inputs of `(tokens, batch, in)` are found out and left
    where the example is images, as tokens that grow with the batch, but not where it is such tokens itself. `fold`
    makes plain linear layers of them again.

    Args:
        model: Any network with linear layers of torch. It is run on the example, and on one with each image twice to
            tell tokens from a batch, in evaluation mode; later inputs need as many tokens.
        example_input: A tensor, a sequence of positional arguments, or a mapping of keyword arguments; the batch is the
            first axis of its tensors.
        where: Which layers, by the rule of `plan`; `None` is all that can become local.
        eps: Noise on the copies, relative to the standard deviation of each weight's numbers; see
            `PatchLinear.from_linear`.
        prefix: How many tokens in front stand beside the grid of patches while it sleeps, such as `num_prefix_tokens`
            of a timm model; see `PatchLinear`. With 0 all tokens are one class, as in the network that was converted.

    Returns:
        The plan that was applied.

    Raises:
        NoMatch: If the pattern matches no linear layer that can become local.
        AlreadyShared: If it names one whose weight is read elsewhere too.
        SpecError: If it names one whose input has no axis of tokens or several numbers of them, or is no plain linear
            layer of torch, or the model cannot run on the example. The model is then as it was.

    Source: Pogodin 2021, A.4.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2))
        >>> _ = patchwise_(net, torch.zeros(1, 5, 2))
        >>> net[0]
        PatchLinear(in_features=2, out_features=3, tokens=5, bias=True)
    """
    made = plan_patches(model, example_input, where, eps, prefix)
    made.apply_(model)
    return made
