"""Small studies: their texts, their TOML files, and what a pipeline made of them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from sdlms.chain import Step
from sdlms.cli import NAMED
from sdlms.runs.reading import Run
from sdlms.storage.tables import read_table
from sdlms.tasks import load_tasks
from sdlms.tools.pipeline_file import read_pipeline
from tests.conftest import TOKENIZER

MODEL = "sdlms-small"
TEXTS = "Sätze für alle.jsonl"
N_OF_TASKS, LONGEST = (17, 17, 17, 17, 16, 16), 240  # 100 documents of some 80 tokens
STEPS = """
[common]
threads = 1
seed = 0
dtype = "float32"

[[step]]
stage = "capture"
model = "{model}"
tasks = ["./{texts}"]
layers = ["{layers}"]

[[step]]
stage = "sae-train"
acts = "{{capture}}"
layers = ["50%"]
arch = "topk"
k = [8]
width = 64
tokens = 4096
seeds = 1
eval_tokens = 500
ce_tokens = 200

[[step]]
stage = "sae-latents"
sae = "{{sae-train}}"

[[step]]
stage = "si-modularity"
acts = "{{capture}}"
nulls = 1

[[step]]
stage = "dynamic-k"
model = "{model}"
keep = [0.5, 1.0]
seeds = 1
window = 64
max_tokens = 60
calibration_tokens = 384
layers = ["none"]
rounds = 1
si = "{{si-modularity}}"

[[step]]
stage = "logit-lens"
model = "{model}"
tasks = ["./{texts}"]
layers = ["{layers}"]
max_tokens = 150
tuned = true
tuned_tasks = ["qa"]
tuned_tokens = 200
tuned_steps = 2

[[step]]
stage = "probe"
acts = "{{capture}}"
layers = ["50%"]
kinds = ["logistic", "mass_mean"]
"""
# What takes long in a model of Pythia's size, and is tried on the small one.
CHEAPER = {
    "ce_tokens = 200": "ce_tokens = 0",
    "nulls = 1": "graph = false",
    'rounds = 1\nsi = "{si-modularity}"': 'measure = "quality"',
    'tuned = true\ntuned_tasks = ["qa"]\ntuned_tokens = 200\ntuned_steps = 2': "",
}
SCALING = """
[[step]]
stage = "scaling"
runs = ["{capture}", "{si_modularity}", "{{capture}}", "{{si-modularity}}"]
"""
REPORT = """
[[step]]
stage = "report"
title = "A study"
runs = [{runs}]
"""
SMALL = STEPS.format(model=MODEL, texts=TEXTS, layers="all") + REPORT.format(
    runs='"{si-modularity}", "{sae-latents}", "{dynamic-k}", "{logit-lens}", "{probe}"'
)


def cheaper(steps: str) -> str:
    """The steps without what `CHEAPER` names."""
    for lines, instead in CHEAPER.items():
        assert lines in steps
        steps = steps.replace(lines, instead)
    return steps


@dataclass(frozen=True)
class Study:
    """A folder in which a pipeline was carried out.

    Attributes:
        folder: the working folder; runs lie in `artifacts/` of it.
        steps: of the file.
        result: what the command said.
    """

    folder: Path
    steps: list[Step]
    result: "subprocess.CompletedProcess[str]"

    @property
    def runs(self) -> dict[str, Path]:
        """`step -> run`."""
        paths = [self.folder / line for line in self.result.stdout.splitlines()]
        return dict(zip((step.name for step in self.steps), paths, strict=True))

    def command(self, name: str) -> list[str]:
        """The words that make a step's run once more."""
        (step,) = (step for step in self.steps if step.name == name)
        return step.command(self.runs)


def write_texts(folder: Path) -> None:
    """A manifest of 100 short documents: the beginnings of embedded ones."""
    tasks = load_tasks(("probe",), None, "text")
    lines = [
        json.dumps({"task": task.name, "text": document.text[:LONGEST]})
        for task, n_documents in zip(tasks, N_OF_TASKS, strict=True)
        for document in task.documents[:n_documents]
    ]
    (folder / TEXTS).write_text("\n".join(lines), encoding="utf-8")


def save_pythia(folder: Path) -> Path:
    """A random model of the shape of Pythia 70m, in float16 as that is, with our tokenizer."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


def carried_out(folder: Path, file: str, text: str) -> Study:
    """Run `sdlms pipeline` on a file of steps."""
    (folder / file).write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", "-m", "sdlms", "pipeline", "--config", file]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
    configs = {name: stage.Config for name, stage in NAMED.items()}
    return Study(folder, read_pipeline(folder / file, configs), result)


def untimed(run: Path) -> dict[str, object]:
    """Every output: the sha256, of tables with measured times the cells without these."""
    found: dict[str, object] = {}
    for record in Run(run).all_of("output"):
        found[record["path"]] = record["sha256"]
        if timed := record.get("timed"):
            rows = read_table(run / record["path"])
            found[record["path"]] = [
                {name: cell for name, cell in row.items() if name not in timed} for row in rows
            ]
    return found


def linked(runs: Sequence[Path], artifacts: Path) -> None:
    """Put runs, which nobody can change, under another artifacts folder."""
    for run in runs:
        shutil.copytree(run, artifacts / run.name, copy_function=os.link, dirs_exist_ok=True)
