"""Execute all notebooks in one kernel, each with a namespace of its own: a kernel starts slowly."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
MODULES = "import sys\nprint(*sorted(sys.modules))"


@dataclass(frozen=True)
class Executed:
    """What a kernel made of notebooks.

    Attributes:
        cells: of each notebook, code cells with their outputs.
        modules: that the kernel had imported in the end.
    """

    cells: dict[str, list[Any]]
    modules: set[str]

    def outputs(self, name: str, kind: str) -> list[Any]:
        """Outputs of one kind of a notebook, `error` or `stream` for example."""
        found = [output for cell in self.cells[name] for output in cell.outputs]
        return [output for output in found if output.output_type == kind]

    def pictures(self, name: str) -> list[bytes]:
        """The PNG files that a notebook shows."""
        shown = self.outputs(name, "display_data") + self.outputs(name, "execute_result")
        return [base64.b64decode(each.data["image/png"]) for each in shown if _is_picture(each)]


def _is_picture(output: Any) -> bool:
    """Whether an output is one."""
    return "image/png" in output.data


def notebook(name: str) -> Any:
    """A notebook as it is committed."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[Any]:
    """The code cells of a notebook, with their tags."""
    return [cell for cell in notebook(name).cells if cell.cell_type == "code"]


def code_of(name: str) -> list[str]:
    """What stands in them."""
    return [cell.source for cell in code_cells(name)]


def execute(
    names: Sequence[str],
    artifacts: Path,
    *,
    first_cell_only: bool = False,
    allow_errors: bool = True,
) -> Executed:
    """Run notebooks one after another in their own folder.

    Args:
        names: of the notebooks.
        artifacts: what `SDLMS_ARTIFACTS` says.
        first_cell_only: leave out all but the first code cell of each.
        allow_errors: run on past every error; otherwise only past those of cells that are tagged
            as such which may fail, as Jupyter does.

    Raises:
        CellExecutionError: another cell failed.
    """
    whole, spans = nbformat.v4.new_notebook(), {}
    for name in names:
        begin = f"%reset -f\n%env SDLMS_ARTIFACTS={artifacts}"
        cells = code_cells(name)[: 1 if first_cell_only else None]
        spans[name] = slice(len(whole.cells) + 1, len(whole.cells) + 1 + len(cells))
        whole.cells += [nbformat.v4.new_code_cell(begin), *cells]
    whole.cells.append(nbformat.v4.new_code_cell(MODULES))
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(
        whole, timeout=600, allow_errors=allow_errors, kernel_name="python3", resources=resources
    ).execute()
    modules = set(whole.cells[-1].outputs[0].text.split())
    return Executed({name: whole.cells[span] for name, span in spans.items()}, modules)
