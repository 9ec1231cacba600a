"""Write the tables of dynamic-k into its run."""

from itertools import product

from sdlms.dynamic import tables
from sdlms.dynamic.beside import Beside, questions_of
from sdlms.dynamic.results import Results
from sdlms.dynamic.study import Study
from sdlms.progress import Progress
from sdlms.runs.writing import RunWriter
from sdlms.storage.tables import write_table

TABLE, CRITICAL = "dynamic_k.csv", "critical.csv"


def write_results(results: Results, out: RunWriter) -> None:
    """Write `dynamic_k.csv` and, where perplexity was measured, `critical.csv`."""
    with out.phase("tables"):
        write_table(out.path / TABLE, tables.COLUMNS, results.rows())
        out.output(TABLE, columns=tables.COLUMNS, timed=tables.TIMED)
        if results.has_quality:
            write_table(out.path / CRITICAL, tables.CRITICAL_COLUMNS, results.critical_rows())
            out.output(CRITICAL, columns=tables.CRITICAL_COLUMNS)


def write_beside(beside: Beside, study: Study, seed: int, out: RunWriter) -> None:
    """Measure and write what becomes of specialized neurons and of latents.

    Args:
        beside: what is asked.
        study: of the model.
        seed: of random neurons and of draws of documents.
        out: the run.
    """
    settings = study.settings
    points = list(product(settings.rules, settings.keeps))
    for question in questions_of(beside, study, seed):
        name = question.file.removesuffix(".csv")
        parts = []
        with out.phase(name), Progress(name, len(points), "gates") as progress:
            for rule, keep in points:
                parts.append(question.measure(study, rule, keep))
                progress.advance(1)
        write_table(out.path / question.file, question.columns, question.rows(parts, seed))
        out.output(question.file, columns=question.columns)
