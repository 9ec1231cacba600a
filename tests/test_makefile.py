"""What `make` installs for a study, and what `make demo` says at its end."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.formats_page import ROOT

EXTRAS = re.compile(r"pip install.*?\[([a-z,]+)\]")
CAPTURE, REPORT = "20261122_101500_capture_demo", "20261122_101530_report"
# Stands for sdlms: notes what it was told, and prints the run that a stage makes.
SDLMS = f"""#!/bin/sh
echo "$@" >> "$0.called"
case $1 in
    capture) echo "my runs/{CAPTURE}";;
    report) echo "my runs/{REPORT}";;
esac
"""


def make(*words: str) -> str:
    """What make prints, whatever make has started this test."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *words]
    result = subprocess.run(command, capture_output=True, text=True, env=outside, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs/pipeline").glob("*.toml")), ids=lambda path: path.name
)
def test_a_clean_clone_gets_what_a_pipeline_says_it_needs(config: Path, tmp_path: Path) -> None:
    needed = EXTRAS.search(config.read_text(encoding="utf-8"))
    assert needed
    printed = make("-n", "pipeline", f"CONFIG={config}", f"VENV={tmp_path}/none")
    installed = {extra for found in EXTRAS.findall(printed) for extra in found.split(",")}
    assert set(needed[1].split(",")) <= installed
    assert f'sdlms pipeline --config "{config}"' in printed


def test_the_demo_names_its_capture_and_its_page(tmp_path: Path) -> None:
    program = tmp_path / "bin/sdlms"
    program.parent.mkdir()
    program.write_text(SDLMS)
    program.chmod(0o755)
    said = make("demo", f"VENV={tmp_path}", "-o", f"{tmp_path}/.installed").splitlines()
    assert [line for line in said if line.endswith(f"/bin/sdlms runs verify {CAPTURE}")]
    assert said[-1].endswith(f": my runs/{REPORT}/report.html")
    called = Path(f"{program}.called").read_text().splitlines()
    assert called == ["capture --label demo", f"report --runs my runs/{CAPTURE}"]
