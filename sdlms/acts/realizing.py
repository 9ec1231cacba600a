"""Results of plans in memory, several of them in one pass over what they share."""

from collections.abc import Sequence

import numpy as np

from sdlms.acts.description import Description, whole
from sdlms.acts.execution import TensorSink, mask_of, run_plans
from sdlms.acts.file_source import FileSource
from sdlms.acts.plan import Plan
from sdlms.acts.saving import result_header
from sdlms.acts.sources import Source, TensorSource

Task = tuple[Source, Plan]


def realized(tasks: Sequence[Task]) -> list[TensorSource]:
    """What each plan makes of its source; those over the same documents share one pass."""
    sinks = [TensorSink(plan, source.description) for source, plan in tasks]
    waiting = list(range(len(tasks)))
    while waiting:
        same = [i for i in waiting if _same_pass(tasks[waiting[0]], tasks[i])]
        source, plan = tasks[same[0]]
        if isinstance(source, FileSource) and len(same) == 1 and _as_stored(source, plan):
            _read_as_stored(source, plan, sinks[same[0]])
        else:
            run_plans(source, [tasks[i][1] for i in same], [sinks[i] for i in same])
        waiting = [i for i in waiting if i not in same]
    return [_in_memory(*task, sink) for task, sink in zip(tasks, sinks, strict=True)]


def _same_pass(one: Task, other: Task) -> bool:
    """Whether two plans read the same documents of the same source."""
    if one[0] is not other[0]:
        return False
    return np.array_equal(one[1].chosen(one[0].description), other[1].chosen(one[0].description))


def _as_stored(source: FileSource, plan: Plan) -> bool:
    """Whether a plan only selects: then rows are read to where they belong, without a buffer."""
    known = source.description
    same = plan.delivered(known) == known.dtype and plan.device in (None, known.device)
    return same and known.has_tokens and not plan.pools


def _read_as_stored(source: FileSource, plan: Plan, sink: TensorSink) -> None:
    """Fill a sink from a file."""
    ranges = whole(source.description, plan.chosen(source.description))
    layers = plan.layers if source.description.has_layers else plan.layers[:1]
    for index, layer in enumerate(layers):
        source.read_padded(ranges, layer, sink.place(index))


def _in_memory(source: Source, plan: Plan, sink: TensorSink) -> TensorSource:
    """What a sink collected, with all that is known of it."""
    known, chosen = source.description, plan.chosen(source.description)
    description = Description(
        dims=plan.dims(known),
        site=known.site,
        layers=plan.layers,
        n_units=known.n_units,
        dtype=plan.delivered(known),
        lengths=sink.lengths,
        document_ids=[known.document_ids[i] for i in chosen],
        document_tasks=[known.document_tasks[i] for i in chosen],
        header=result_header(known, plan),
        device=sink.tensor.device,
    )
    mask = mask_of(source, plan) if description.has_tokens else None
    return TensorSource(sink.tensor, mask, description)
