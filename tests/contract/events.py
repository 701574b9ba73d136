"""The table of events: each takes a `Trial`, builds what it needs from it, and raises `AssertionError` on failure."""

from collections.abc import Callable

from tests.contract import export_events, loading_events, sharing_events, training_events
from tests.contract.trial import Trial

Event = Callable[[Trial], None]

EVENTS: dict[str, Event] = {
    event.__name__: event
    for event in (
        sharing_events.apply,
        sharing_events.late_failure,
        sharing_events.twice,
        sharing_events.unshare,
        sharing_events.retie,
        sharing_events.fold,
        sharing_events.file,
        sharing_events.torch_alone,
        sharing_events.deepcopy,
        sharing_events.pickle,
        sharing_events.optimizer,
        loading_events.state_dict,
        loading_events.assign,
        loading_events.conflict,
        loading_events.owners_only,
        loading_events.to_empty,
        loading_events.to_empty_retie,
        training_events.steps,
        training_events.gradient,
        training_events.micro_batches,
        training_events.ema,
        training_events.swa,
        training_events.functional,
        training_events.amp_foreach,
        training_events.amp_fused,
        training_events.amp_sgd,
        training_events.compiled,
        training_events.checkpointed,
    )
}
"""Run in this process, one cell at a time."""

SLOW: dict[str, tuple[Event, tuple[str, ...]]] = {"inductor": (training_events.inductor, ("chain", "local_images"))}
"""Run behind the marker `slow`, on the modules named."""

CHOSEN: dict[str, tuple[Event, tuple[str, ...]]] = {
    event.__name__: (event, ("chain", "local_rows"))
    for event in (
        loading_events.cast,
        loading_events.weights_only,
        loading_events.share_memory,
        training_events.resume,
        export_events.export,
        export_events.onnx,
    )
}
"""Run on the first of the modules named that a spec is tried on; behind the marker `slow` on all others."""
