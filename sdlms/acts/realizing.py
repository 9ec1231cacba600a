"""Results of plans in memory, several of them in one pass over what they share."""

from collections.abc import Sequence

import numpy as np

from sdlms.acts.description import Description
from sdlms.acts.execution import TensorSink, mask_of, run_plans
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
        source = tasks[same[0]][0]
        run_plans(source, [tasks[i][1] for i in same], [sinks[i] for i in same])
        waiting = [i for i in waiting if i not in same]
    return [_in_memory(*task, sink) for task, sink in zip(tasks, sinks, strict=True)]


def _same_pass(one: Task, other: Task) -> bool:
    """Whether two plans read the same documents of the same source."""
    if one[0] is not other[0]:
        return False
    return np.array_equal(one[1].chosen(one[0].description), other[1].chosen(one[0].description))


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
