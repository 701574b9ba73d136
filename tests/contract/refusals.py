"""Every cell that is refused, with the reason. A refusal that is not listed fails, a listed cell that passes too."""

from fnmatch import fnmatchcase
from typing import NamedTuple


class Refusal(NamedTuple):
    """Globs on the names of a spec, a module and an event, and a pattern that the message has to match."""

    spec: str
    module: str
    event: str
    reason: str


OWN_TIES = r"^TorchRefuses: loading by assignment, and the meta device, undo the module's own ties"
NO_LAYER = r"^NoMatch: .*can be shared\. "

REFUSALS: tuple[Refusal, ...] = (
    Refusal("*", "lazy", "*", r"^SpecError: '0\.weight' has no shape yet: its lazy module is not built"),
    # Two layers of one role in each stage: too few for a rate of three, and the back third of them is one layer.
    Refusal(
        "random thirds, mean", "shortcuts", "*", r"^SpecError: .*rate 3 is above the depth: the group has 2 layers"
    ),
    Refusal("back, strided", "shortcuts", "*", r"^SpecError: .*the group has 2 layers of which 1 share"),
    # Three layers once the one that stands at two places is left out.
    Refusal("back, strided", "layer_used_twice", "*", r"^SpecError: .*the group has 3 layers of which 1 share"),
    # No weight of a Linear or Conv layer that torch could parametrize.
    Refusal("clusters", "parametrized", "*", NO_LAYER + r".*its module is parametrized already"),
    Refusal("clusters", "parameter_list", "*", NO_LAYER + r".*of a Linear or Conv layer, but of a ParameterList"),
    Refusal("clusters", "recurrent", "*", NO_LAYER + r".*recurrent layers keep a second list"),
    Refusal("clusters", "complex_weights", "*", NO_LAYER + r".*complex64, which have no means"),
    # Layers that read a bank: recurrent ones cannot, and of the others none is tied to another.
    Refusal("trained through", "recurrent", "*", r"^SpecError: .*LSTM reads its weights from a list of its own"),
    Refusal("low rank of each layer", "recurrent", "*", r"^SpecError: .*LSTM reads its weights from a list of its own"),
    Refusal("templates", "recurrent", "*", NO_LAYER + r".*recurrent layers keep a second list"),
    Refusal("trained through", "*", "retie", r"^NothingTied"),
    Refusal("trained through", "*", "owners_only", r"^NothingTied"),
    Refusal("trained through", "*", "conflict", r"^NothingTied"),
    Refusal("low rank of each layer", "*", "retie", r"^NothingTied"),
    Refusal("low rank of each layer", "*", "owners_only", r"^NothingTied"),
    Refusal("low rank of each layer", "*", "conflict", r"^NothingTied"),
    *(Refusal("templates", "*", event, r"^NothingTied") for event in ("retie", "owners_only", "conflict")),
    *(
        Refusal("proximal", module, "*", r"^SpecError: Proximal: .* has no trainable weight of a Linear or Conv layer")
        for module in ("recurrent", "parametrized")
    ),
    Refusal("proximal", "half", "*", r"^SpecError: Proximal: .* is torch.bfloat16 and has no float32 master"),
    Refusal("proximal", "tied_embedding", "assign", OWN_TIES),
    Refusal("proximal", "tied_embedding", "to_empty", OWN_TIES),
    # Events of ties, of which this spec makes none.
    Refusal("clusters", "*", "retie", r"^NothingTied"),
    Refusal("clusters", "*", "owners_only", r"^NothingTied"),
    Refusal("lattice", "*", "retie", r"^NothingTied"),
    Refusal("lattice", "*", "owners_only", r"^NothingTied"),
    Refusal("low rank", "*", "retie", r"^NothingTied"),
    Refusal("low rank", "*", "owners_only", r"^NothingTied"),
    Refusal("low rank", "*", "conflict", r"^NothingTied"),
    # Local layers whose kernels differ are no convolution, whatever shares: classes of a lattice do differ.
    Refusal("*", "local_*", "fold", r"^ModelChanged: Kernels of \d local layers differ from their mean"),
    # What is attached to an optimizer: other parameters have come to where those were that it steps.
    *(
        Refusal(
            hook,
            "*",
            event,
            r"^ModelChanged: .*the model does not read .* any more that this was attached to\. Share first",
        )
        for hook in ("sleep", "sleep, hebbian", "proximal")
        for event in ("assign", "to_empty")
    ),
    # Torch's own limits, which the module meets unshared as well.
    Refusal("*", "parametrized", "pickle", r"^TorchRefuses: Serialization of parametrized modules is only supported"),
    Refusal("clusters", "*", "pickle", r"^TorchRefuses: Serialization of parametrized modules is only supported"),
    Refusal("lattice", "*", "pickle", r"^TorchRefuses: Serialization of parametrized modules is only supported"),
    Refusal("low rank", "*", "pickle", r"^TorchRefuses: Serialization of parametrized modules is only supported"),
    Refusal("*", "complex_weights", "amp_*", r"^TorchRefuses: .*not implemented for 'ComplexFloat'"),
    Refusal("*", "*used_twice", "functional", r"^TorchRefuses: functional_call leaves its own numbers .*#86708"),
    # What ONNX has no operators for, and what onnxruntime has no kernels for on the CPU.
    Refusal("*", "complex_weights", "onnx", r"^FileError: ONNX cannot express Rotations: .*complex"),
    Refusal("*", "half", "onnx", r"^FileError: onnxruntime .* cannot run .*NOT_IMPLEMENTED"),
    # What FSDP2 cannot cut, shared or not; of layers that a bank or a codebook makes, what is stored may be cut.
    Refusal("*", "scalars", "fsdp2", r"^SpecError: shard_: '0\..*scale.*' is a scalar"),
    Refusal("[hrbtp]*", "transposed", "fsdp2", r"^SpecError: shard_: 'stem\.weight' is not contiguous"),
    Refusal("low rank of*", "transposed", "fsdp2", r"^SpecError: shard_: 'stem\.weight' is not contiguous"),
    Refusal("[hrbp]*", "channels_last", "fsdp2", r"^SpecError: shard_: '0\.weight' is not contiguous"),
    Refusal("trained through", "channels_last", "fsdp2", r"^SpecError: shard_: .*is not contiguous"),
    Refusal("low rank of*", "channels_last", "fsdp2", r"^SpecError: shard_: .*is not contiguous"),
    # safetensors asks for a view of any tied tensor; the file itself is read by load_file all the same. All that tie.
    Refusal("[hrb]*", "transposed", "torch_alone", r"^TorchRefuses: view size is not compatible"),
    Refusal("[hrb]*", "channels_last", "torch_alone", r"^TorchRefuses: view size is not compatible"),
)


def declared(spec: str, module: str, event: str) -> Refusal | None:
    """The first entry for a cell, or none: it has to pass."""
    names = (spec, module, event)
    return next((row for row in REFUSALS if all(map(fnmatchcase, names, row[:3]))), None)
