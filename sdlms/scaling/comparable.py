"""Which runs may be joined: those that differ in the model, and in nothing else that matters."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.scaling.documents import documents_of, texts_of
from sdlms.scaling.metrics import ALL_TASKS, Metric
from sdlms.scaling.sources import Source


def check_comparable(sources: Sequence[Source]) -> None:
    """Refuse runs whose numbers mean different things.

    No model is there under two names. Of each stage: two models or more, of each one run for the
    same units; the same threshold rule and settings; the same tasks and documents. A run that
    lists no documents is compared by its texts and settings; one whose capture is gone by the
    names of its tasks alone, with a warning.

    Raises:
        UserError: the first difference.
    """
    _check_controls(sources)
    _check_names(sources)
    for stage in dict.fromkeys(source.stage for source in sources):
        group = [source for source in sources if source.stage == stage]
        _check_models(group)
        _check_rules(group)  # other --keep are other units too, but are better said by name
        _check_subjects(group)
        _check_tasks(group)
        _check_texts(group)
        _check_documents(group)


def _check_controls(sources: Sequence[Source]) -> None:
    """A control is compared with controls of its kind."""
    for first, other in _pairs(sources):
        if first.control != other.control:
            raise UserError(
                f"--runs: {first.described} has --control {first.control}, {other.described} has "
                f"--control {other.control}; controls are joined with their like alone. Leave one "
                "kind out."
            )


def _check_names(sources: Sequence[Source]) -> None:
    """One name for the same weights: under two they would count as two models."""
    for one, other in combinations(sources, 2):
        if one.model != other.model and one.weights == other.weights:
            raise UserError(
                f"--runs: {one.described} and {other.described} are of one model under two names: "
                "the sha256 of their weights is the same. Leave one name out."
            )


def _check_models(group: Sequence[Source]) -> None:
    """Two models at least, each once."""
    for one, other in combinations(group, 2):
        shared = [subject for subject, _ in sorted(one.quantities & other.quantities)]
        if one.model == other.model and shared:
            raise UserError(
                f"--runs: {one.run.name} and {other.run.name} are both {one.stage} of {one.model}, "
                f"{shared[0].named}. Leave one out."
            )
    if len({source.model for source in group}) == 1:
        raise UserError(
            f"--runs: {group[0].stage} is there of one model alone ({group[0].model}); a trend "
            "needs two. Name that stage's run of another model too, or leave this one out."
        )


def _check_subjects(group: Sequence[Source]) -> None:
    """The same units in all models, in one run or in several, for what was measured of both."""
    found: dict[str, dict[Metric, set[str]]] = {}
    for source in group:
        own = found.setdefault(source.model, {})
        for subject, metric in source.quantities:
            own.setdefault(metric, set()).add(subject.named)
    (first, own), *others = found.items()
    for model, theirs in others:
        if not (both := own.keys() & theirs.keys()):
            raise UserError(
                f"--runs: {group[0].stage} measured nothing in {first} that it measured in {model} "
                "too. Make both by the same settings."
            )
        one, other = (sorted(set().union(*(of[m] for m in both))) for of in (own, theirs))
        if one != other:
            raise UserError(
                f"--runs: {group[0].stage} is of {', '.join(one)} in {first} and of "
                f"{', '.join(other)} in {model}. Name runs of the same sites and rules."
            )


def _check_rules(group: Sequence[Source]) -> None:
    """The same threshold rule, and the same settings that change what a number means."""
    for first, other in combinations(group, 2):
        for name in first.rules:
            if first.rules[name] != other.rules.get(name, first.rules[name]):
                raise UserError(
                    f"--runs: {name} is {first.rules[name]} in {first.described} and "
                    f"{other.rules[name]} in {other.described}: they do not compare. Make both by "
                    "the same rule."
                )


def _check_tasks(group: Sequence[Source]) -> None:
    """The same tasks, of runs that tell tasks apart."""
    for first, other in _pairs([source for source in group if source.tasks != [ALL_TASKS]]):
        _compare_tasks(first, set(first.tasks), other, set(other.tasks))


def _compare_tasks(first: Source, own: set[str], other: Source, theirs: set[str]) -> None:
    """Refuse two runs of different tasks."""
    if own == theirs:
        return
    task = min(own ^ theirs)
    having, lacking = (first, other) if task in own else (other, first)
    raise UserError(
        f"--runs: {having.described} has the task '{task}', {lacking.described} does not. "
        "Name runs of the same --tasks."
    )


def _check_texts(group: Sequence[Source]) -> None:
    """The same texts, of runs that list no documents."""
    known = [(source, texts) for source in group if (texts := texts_of(source.run)) is not None]
    for other, theirs in known[1:]:
        first, own = known[0]
        _compare_tasks(first, set(own), other, set(theirs))
        for task in own:
            if own[task] != theirs[task]:
                raise UserError(
                    f"--runs: {first.described} and {other.described} read other texts of the task "
                    f"'{task}' (their sha256 differ). Make both from the same texts."
                )


def _check_documents(group: Sequence[Source]) -> None:
    """The same documents, of runs that list them or read a run that does."""
    known = []
    for source in (source for source in group if texts_of(source.run) is None):
        if (documents := documents_of(source.run)) is None:
            LOGGER.warning(
                f"{source.described}: the capture that it read is not beside it; its documents are "
                "taken to be those of the other runs"
            )
        else:
            known.append((source, documents))
    for other, theirs in known[1:]:
        first, own = known[0]
        _compare_tasks(first, {d.task for d in own}, other, {d.task for d in theirs})
        if own != theirs:
            raise UserError(
                f"--runs: {first.described} read {len(own)} documents, {other.described} "
                f"{len(theirs)}; {len(own & theirs)} are the same. Make both from the same texts, "
                "with the same --max-tokens and --seed (tokenizers differ? take all documents)."
            )


def _pairs(sources: Sequence[Source]) -> Iterator[tuple[Source, Source]]:
    """The first with each of the others."""
    return ((sources[0], other) for other in sources[1:])
