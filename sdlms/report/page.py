"""The page of a report: one file that needs no other, no network and no script."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources

from sdlms.progress import readable_bytes
from sdlms.report.commands import script
from sdlms.report.happenings import moment
from sdlms.report.html import NONE, Content, Html, element, grid, link, of_class, scroller, section
from sdlms.report.lineage import Lineage
from sdlms.report.one_run import input_links, run_section, subject_of, took
from sdlms.report.pictures import Drawn
from sdlms.report.subjects import data_table, models_table, software
from sdlms.runs.reading import Run

# In the order of the page: what each stage answers.
STAGES = {
    "capture": "Where are activations sparse, layer by layer and task by task?",
    "sae-train": "Which sparse autoencoders explain activations best, and with how many latents?",
    "sae-latents": "What do the chosen autoencoders say of every captured token?",
    "sae-evaluate": "What do sparse autoencoders that exist already explain?",
    "si-modularity": "Are units specialized for tasks, and do they work in communities?",
    "dynamic-k": "How many neurons can be left out, at what cost and with what speed?",
    "logit-lens": "What would the model say after each layer?",
    "probe": "What can be read from activations, and from which layer on?",
    "scaling": "How does each quantity move with the model's size?",
}
SUMMARY = ("run", "stage", "model", "begun", "took", "size", "reads")


def page(title: str, lineage: Lineage, drawn: Mapping[str, Sequence[Drawn]]) -> bytes:
    """The whole page in UTF-8; the same arguments give the same bytes.

    Args:
        title: its heading.
        lineage: the runs.
        drawn: figures by stage.
    """
    runs = list(lineage.runs.values())
    sections = [
        section(2, "Runs", _summary(lineage), "runs"),
        section(2, "Where they come from", _tree(lineage), "lineage"),
        *(_stage(stage, lineage, drawn.get(stage, ())) for stage in stages_of(runs)),
        section(2, "Make them again", _commands(lineage), "commands"),
        section(2, "Models", models_table(runs), "models"),
        section(2, "Data", data_table(runs), "data"),
        section(2, "Software and machines", software(runs), "software"),
    ]
    top = (element("h1", title), of_class("note", "p", _about(lineage)), _contents(runs))
    body = element("main", [[part, "\n"] for part in (*top, *sections)])
    whole = element("html", [_head(title), "\n", element("body", body)], {"lang": "en"})
    return f"<!doctype html>\n{whole.markup}\n".encode()


def stages_of(runs: Iterable[Run]) -> list[str]:
    """Their stages, in the order of the page; those it does not know come last."""
    present = dict.fromkeys(run.stage for run in runs)
    return sorted(present, key=lambda stage: [*STAGES, *sorted(present)].index(stage))


def _head(title: str) -> Html:
    """What stands before the text; browsers let the page use its own style and pictures only."""
    style = (resources.files("sdlms.report") / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
    policy += "base-uri 'none'; form-action 'none'"
    width = "width=device-width, initial-scale=1"
    parts = (
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", attributes={"name": "viewport", "content": width}),
        element("title", title),
        element("style", Html(style)),
    )
    return element("head", [[part, "\n"] for part in parts])


def _about(lineage: Lineage) -> str:
    """How much the page shows, and what was checked."""
    n_runs, n_named = len(lineage.runs), len(lineage.named)
    others = f", {n_named} of them asked for and the others what these read" * (n_named < n_runs)
    return (
        f"{n_runs} {'runs' if n_runs > 1 else 'run'} of sdlms{others}. Every file was compared "
        "with the sha256 that its run recorded. Names of runs begin with the time in UTC."
    )


def _contents(runs: Sequence[Run]) -> Html:
    """Links to the parts of the page."""
    places = [("runs", "Runs"), ("lineage", "Where they come from")]
    places += [(_place(stage), stage) for stage in stages_of(runs)]
    places += [("commands", "Make them again"), ("models", "Models"), ("data", "Data")]
    places += [("software", "Software and machines")]
    items: list[Content] = [[element("li", link(place, name)), "\n"] for place, name in places]
    return element("nav", element("ul", items), {"aria-label": "contents"})


def _summary(lineage: Lineage) -> Content:
    """One line per run."""
    rows: list[list[Content]] = []
    for digest, run in lineage.runs.items():
        size = sum(record["bytes"] for record in run.all_of("output"))
        begun = moment(str(run.start.get("time", "")))
        rows.append(
            [
                link(lineage.place(digest), element("code", run.name)),
                *(run.stage, subject_of(lineage, digest), begun, took(run)),
                readable_bytes(size),
                input_links(lineage, digest) or NONE,
            ]
        )
    return grid("runs", SUMMARY, rows)


def _tree(lineage: Lineage) -> Content:
    """What nobody read, each with its inputs below it, down to models and data."""
    note = "Each run stands above the runs that it read; where one is read again, it is a link."
    shown: set[str] = set()
    branches = [_branch(lineage, digest, shown) for digest in lineage.last]
    parts: list[Content] = [of_class("note", "p", note), of_class("tree", "ul", branches)]
    if absent := lineage.absent:
        rows = [[element("code", each.name), element("code", each.sha256)] for each in absent]
        parts += [
            element("p", "These were read too, but are not at hand, so this page lacks them:"),
            grid("runs not at hand", ("run", "sha256 of its meta.jsonl"), rows),
        ]
    return parts


def _branch(lineage: Lineage, digest: str, shown: set[str]) -> Content:
    """A run and, the first time it is shown, what it was made of."""
    run = lineage.runs[digest]
    line: list[Content] = [link(lineage.place(digest), element("code", run.name))]
    if digest in shown:
        return [element("li", [*line, " (above)"]), "\n"]
    shown.add(digest)
    line.append(f" · {run.stage} · {subject_of(lineage, digest)}")
    below: list[Content] = []
    for each in lineage.inputs[digest]:
        if each.sha256 in lineage.runs:
            below.append(_branch(lineage, each.sha256, shown))
        else:
            below.append(element("li", [element("code", each.name), " (not at hand)"]))
    below += [[element("li", origin), "\n"] for origin in _origins(run)]
    return [element("li", [*line, element("ul", below) if below else ""]), "\n"]


def _origins(run: Run) -> Iterator[Content]:
    """Model and texts, of a run that read them itself."""
    resolved = run.start.get("resolved", {})
    model, data = resolved.get("model") or {}, resolved.get("data") or []
    if model and (data or not run.all_of("input")):
        yield ["model ", link("models", element("code", str(model.get("name"))))]
    if data:
        tasks = ", ".join(str(task.get("task")) for task in data)
        yield ["data ", link("data", element("code", tasks))]


def _stage(stage: str, lineage: Lineage, drawn: Sequence[Drawn]) -> Html:
    """A stage's figures, and its runs one by one."""
    parts: list[Content] = [element("p", STAGES[stage])] if stage in STAGES else []
    parts += [_figure(each, lineage) for each in drawn if each.picture]
    left = [each for each in drawn if not each.picture]
    if left:
        reasons = [element("li", f"{each.title}: {each.reason}") for each in left]
        parts += [of_class("note", "p", "Not drawn:"), of_class("note", "ul", reasons)]
    for digest, run in lineage.runs.items():
        if run.stage == stage:
            parts += [run_section(lineage, digest), "\n"]
    return section(2, stage, parts, _place(stage))


def _place(stage: str) -> str:
    """Where the page shows a stage."""
    return f"stage-{re.sub(r'[^a-z0-9-]', '-', stage)}"


def _figure(drawn: Drawn, lineage: Lineage) -> Content:
    """A picture, with what it shows."""
    picture = drawn.picture
    if picture is None:
        raise ValueError("there is no picture")
    of = [digest for digest, run in lineage.runs.items() if run in drawn.runs]
    named = [f"{lineage.runs[digest].name} ({subject_of(lineage, digest)})" for digest in of]
    content = base64.b64encode(picture.content).decode()
    image = {
        "src": f"data:{picture.media_type};base64,{content}",
        "alt": f"{drawn.title}: {', '.join(named)}",
        "width": str(picture.width),
        "height": str(picture.height),
    }
    links: list[Content] = [
        [", " if index else ": ", link(lineage.place(digest), name)]
        for index, (digest, name) in enumerate(zip(of, named, strict=True))
    ]
    caption = element("figcaption", [drawn.title, *links])
    return [element("figure", [caption, scroller(drawn.title, element("img", "", image))]), "\n"]


def _commands(lineage: Lineage) -> Content:
    """A script for a shell."""
    note = (
        "With every setting written out; each command's last line of output is the path of its "
        "run, which later ones read. Paths of models and texts are those of the machine where the "
        "runs were made."
    )
    return [of_class("note", "p", note), element("pre", script(lineage), {"tabindex": "0"})]
