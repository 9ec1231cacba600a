"""The scripts in examples/ do what they say, called as their docstrings call them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
WITHOUT_RUN = ("basic_training", "streaming")
WITH_RUN = {"layer_sweep": "all", "token_level": "50%"}


def output_of(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    environment = {
        **os.environ,
        "SDLMS_CACHE": str(folder / "cache"),
        "SDLMS_ARTIFACTS": str(folder / "artifacts"),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_python(document: str) -> str:
    """The first block of Python in a document."""
    text = (EXAMPLES.parent / document).read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def last_number(text: str) -> float:
    return float(text.split()[-1])


def capture(folder: Path, layers: str) -> None:
    flags = ["--site", "resid_post", "--layers", layers, "--max-tokens", "2000", "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main(["capture", *flags, "--artifacts", str(folder / "artifacts")])
    assert not stopped.value.code


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*WITHOUT_RUN, *WITH_RUN}


@pytest.mark.slow
def test_basic_training(tmp_path: Path) -> None:
    text = output_of("basic_training", tmp_path)
    assert "one pass over" in text
    assert last_number(text) > 0.9


@pytest.mark.slow
def test_layer_sweep(tmp_path: Path) -> None:
    capture(tmp_path, WITH_RUN["layer_sweep"])
    lines = output_of("layer_sweep", tmp_path, "latest").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"layer {layer}" for layer in range(4)]
    assert max(last_number(line) for line in lines) > 0.9


@pytest.mark.slow
def test_token_level(tmp_path: Path) -> None:
    capture(tmp_path, WITH_RUN["token_level"])
    text = output_of("token_level", tmp_path, "latest")
    of_math, of_others = (float(part.split()[-1]) for part in text.split(","))
    assert of_math > of_others + 0.3


@pytest.mark.slow
def test_streaming(tmp_path: Path) -> None:
    first = output_of("streaming", tmp_path)
    assert "100 documents, 3 layers" in first
    (entry,) = (tmp_path / "cache").rglob("*.h5")
    made = entry.stat().st_mtime_ns
    assert output_of("streaming", tmp_path) == first
    assert entry.stat().st_mtime_ns == made, "the second time nothing is computed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "before", "after"),
    [
        ("README.md", "", "print(vectors.shape, layer, pooled)"),
        (
            "docs/migrating-from-probelab.md",
            "is_positive = [True, False] * 60",
            "print(probe.result.converged)",
        ),
    ],
)
def test_the_first_python_of_a_document(
    document: str, before: str, after: str, tmp_path: Path
) -> None:
    capture(tmp_path, "2")
    program = tmp_path / "program.py"
    lines = [before, first_python(document), after]
    if before:  # as many labels as there are documents
        lines.insert(1, "from sdlms.acts import load_acts")
        lines.insert(2, 'is_positive = is_positive[: load_acts("latest").n_documents]')
    program.write_text("\n".join(lines))
    environment = {**os.environ, "SDLMS_ARTIFACTS": str(tmp_path / "artifacts")}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "source    activations.h5 resid_post" in done.stdout
    expected = "True" if before else "torch.Size"
    assert expected in done.stdout.splitlines()[-1]
