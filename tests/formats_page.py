"""What `docs/formats.md` says of each file, as a test can compare it with what is written."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/formats.md"


def section(heading: str = "") -> str:
    """The page, or what stands under a heading up to the next of its level or above."""
    text = PAGE.read_text(encoding="utf-8")
    if not heading:
        return text
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"{PAGE.name} has no heading '{heading}'"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def of_file(stage: str, file: str) -> str:
    """What is said of a stage's file."""
    own = section(f"## {stage}")
    _, found, rest = own.partition(f"\n### {file}\n")
    assert found, f"{PAGE.name} has no '### {file}' under '## {stage}'"
    return rest.partition("\n### ")[0]


def rows_of(text: str, first: str) -> list[list[str]]:
    """Cells of the rows of the table whose first column is called so."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not line.startswith("|---"):
            rows.append(cells)
    return rows


def first_cells(heading: str, first: str) -> list[list[str]]:
    """The same of what stands under a heading."""
    return rows_of(section(heading), first)


def quoted(text: str) -> list[str]:
    """Words in backquotes, in order."""
    return re.findall(r"`([^`]+)`", text)


def columns_of(stage: str, file: str) -> list[str]:
    """The columns of a table, in the order of the page."""
    rows = rows_of(of_file(stage, file), "column")
    return [name for row in rows for name in quoted(row[0])]


def datasets_of(stage: str, file: str) -> dict[str, str]:
    """The types of a file's data sets, by name."""
    rows = rows_of(of_file(stage, file), "data set")
    return {quoted(row[0])[0]: row[2] for row in rows}


def attributes_of(stage: str, file: str) -> set[str]:
    """The attributes of a file: names, without their values in brackets."""
    _, found, rest = of_file(stage, file).partition("\nAttributes: ")
    assert found, f"{PAGE.name} names no attributes of {file}"
    sentence = re.split(r"\.(?:\s|$)", rest, maxsplit=1)[0]
    return set(quoted(re.sub(r"\([^)]*\)", "", sentence)))
