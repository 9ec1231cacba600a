"""What logit-lens refuses: one line, exit code 2, and no run."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import write_tuned
from sdlms.models.loading import find_model, load_config
from sdlms.models.recorded import model_record
from tests.stages.lens_runs import SMALL
from tests.stages.probe_runs import Cli, newest

Refused = Callable[..., None]
QUICK = ["--model", "sdlms-small", *SMALL]


@pytest.fixture
def refused(refused_command: Refused) -> Refused:
    """Checks that logit-lens is refused in one line, and leaves nothing."""
    return partial(refused_command, "logit-lens", *QUICK)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-k", "0"], "--top-k must be >= 1, got 0."),
        (["--top-k", "ten"], "--top-k: expected an integer, got 'ten'"),
        (["--max-tokens", "0"], "--max-tokens must be >= 1, got 0."),
        (["--skip-first", "-1"], "--skip-first must be >= 0, got -1."),
        (["--batch-tokens", "-1"], "--batch-tokens must be >= 0, got -1."),
        (["--layers", ""], "--layers is empty"),
        (["--layers", "two"], "'two' is neither an index"),
        (["--unembed", "int8"], "--unembed: expected one of auto, float32, bfloat16, got 'int8'"),
        (["--tuned", "--tuned-steps", "0"], "--tuned-steps must be >= 1, got 0."),
        (["--tuned", "--tuned-tokens", "0"], "--tuned-tokens must be >= 1, got 0."),
        (["--tuned", "--tuned-lens", "x"], "--tuned trains a lens and --tuned-lens x reads one."),
        (["--tuned-lens", " "], "--tuned-lens is empty. Name a folder or a logit-lens run"),
        (["--mid", "--tuned"], "for which a tuned lens has no translator. Leave out --mid or --tu"),
        (["--mid", "--tuned-lens", "x"], "Leave out --mid or --tuned-lens."),
        (["--tuned-steps", "9"], "--tuned-steps is for --tuned, which trains a lens."),
        (["--tuned-tasks", "probe"], "--tuned-tasks is for --tuned, which trains a lens."),
        (["--tuned-lens", "x", "--tuned-tokens", "9"], "--tuned-tokens is for --tuned, which"),
        (["--tasks", ""], "--tasks is empty"),
        (["--tasks", "math", "--texts", "x.txt"], "--tasks and --texts exclude each other"),
        (["--field", "body"], "--field body is for --texts FILE.jsonl"),
        (["--seed", "-1"], "--seed must be >= 0, got -1."),
        (["--target", ""], "--target '': a word is empty. Leave it out;"),
        (["--target", " a,, b"], "--target ' a,, b': a word is empty."),
        (["--targets", " the"], "No such option: --targets"),
    ],
)
def test_settings_are_checked_before_anything_is_read(
    refused: Refused, words: list[str], message: str
) -> None:
    refused(*words, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "3"], "there is no layer 3; the model has layers 0 to 2"),
        (["--tasks", "sheep"], "--tasks: unknown task 'sheep'"),
        (["--tasks", "heldout,math"], "name one manifest alone"),
        (["--max-tokens", "3"], "--max-tokens 3: the first document of task"),
        (["--dtype", "float16"], "--dtype float16 is for GPUs"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--model", "no-such-model"], "--model no-such-model: the hub cannot be reached"),
        (["--model", "sdlms-smal"], "Did you mean 'sdlms-small'?"),
        (["--revision", "main"], "--revision is for hub models"),
        (["--texts", "absent.txt"], "absent.txt"),
        (["--tuned", "--tuned-tasks", "sheep"], "--tuned-tasks: unknown task 'sheep'"),
        (["--tuned", "--tuned-tasks", "no.jsonl"], "--tuned-tasks no.jsonl: no such file."),
        (["--tuned", "--tuned-tasks", ""], "--tuned-tasks is empty."),
        (["--tuned", "--tuned-tokens", "3"], "--tuned-tokens 3: the first document of task"),
        (["--skip-first", "100000"], "every token is special or skipped. Lower --skip-first"),
        (["--tuned", "--tasks", "math", "--tuned-tasks", "math", "--tuned-tokens", "400"],
         "documents of --tuned-tasks are measured too. Train on other text, or measure other"),
        (["--target", " the, sheepdogs"], "--target ' sheepdogs' is "),
        (["--target", "the"], "is 2 tokens: 't', 'he'. Name a text that is a single token. Did yo"),
        (["--target", "x" * 99], "'x', … Name a text that is a single token"),
        (["--target", "ab\\,cd"], "--target 'ab,cd' is 4 tokens: 'ab', ',', 'c', 'd'. Name a"),
        (["--tuned-lens", "absent"], "no run 'absent' under artifacts/"),
        (["--tuned-lens", "latest"], "'logit-lens' run under artifacts/ trained a lens."),
    ],
)  # fmt: skip
def test_inputs_are_checked_before_a_run_begins(
    refused: Refused, words: list[str], message: str
) -> None:
    refused(*words, message=message)


def test_a_key_of_a_file_is_checked_too(refused: Refused, work: Path) -> None:
    (work / "bad.toml").write_text('target = " the"\n')
    refused("--config", "bad.toml", message="'target': expected an array, got ' the'.")
    (work / "bad.toml").write_text("target = [5]\n")
    refused("--config", "bad.toml", message="'target': expected a string, got 5.")
    (work / "bad.toml").write_text('target = ["a", ""]\n')
    refused("--config", "bad.toml", message="'target' 'a,': a word is empty.")
    (work / "bad.toml").write_text('target = [""]\n')
    refused("--config", "bad.toml", message="'target' '': a word is empty.")
    (work / "bad.toml").write_text("top_n = 5\n")
    refused("--config", "bad.toml", message="unknown key 'top_n'. Did you mean 'top_k'?")


def test_an_encoder_predicts_nothing(
    refused: Refused, architecture_model: Callable[[str], Path]
) -> None:
    folder = architecture_model("gpt_neox").parent / "encoder"
    folder.mkdir(exist_ok=True)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"model_type": "bert", "vocab_size": 3072, "intermediate_size": 64, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    refused("--model", folder, message="model_type 'bert' is an encoder")


def test_blocks_that_norm_the_sum_have_no_state_after_attention(
    refused: Refused, work: Path, tiny_model: Path
) -> None:
    folder = work / "opt"
    config = AutoConfig.for_model(
        "opt", vocab_size=3072, hidden_size=24, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=96, do_layer_norm_before=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for path in tiny_model.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    refused("--model", folder, "--mid", message="--mid: blocks of this model (model_type 'opt')")


@pytest.mark.parametrize("text", ["", " \n\n \n"])
def test_texts_that_hold_nothing(refused: Refused, work: Path, text: str) -> None:
    (work / "texts.txt").write_text(text)
    refused("--texts", "texts.txt", message="texts.txt")


def test_texts_of_special_tokens_alone(refused: Refused, work: Path) -> None:
    (work / "texts.jsonl").write_text('{"text": "<|endoftext|>"}\n')
    message = "task 'texts': every token is special or skipped."
    refused("--texts", "texts.jsonl", message=message)


def test_a_run_that_trained_no_lens(refused: Refused, cli: Cli, work: Path) -> None:
    assert cli("logit-lens", *QUICK, "--tasks", "math") == 0
    name = newest(work).name
    refused("--tuned-lens", name, message=f"--tuned-lens: {name} trained no lens.")
    refused(
        "--tuned-lens", "latest", message="run under artifacts/ trained a lens. Make one: sdlms"
    )


def test_a_lens_of_another_model_or_a_damaged_one(refused: Refused, work: Path) -> None:
    source = find_model("sdlms-small", None)
    record = model_record(source, load_config(source))
    tuned = Tuned(torch.zeros(3, 48, 48), torch.zeros(3, 48))
    write_tuned(work / "lens", tuned, record)
    refused("--tuned-lens", "lens", "--model", "sdlms-medium", message="is of a model with 3 layer")
    write_tuned(work / "lens", tuned, {**record, "weights": {"a": "b"}})
    refused("--tuned-lens", "lens", message="was trained on other weights than those of sdlms-sma")
    path = work / "lens/translators.safetensors"
    write_tuned(work / "lens", tuned, record)
    path.write_bytes(path.read_bytes()[:300])
    refused("--tuned-lens", "lens", message="translators.safetensors")
    write_tuned(work / "lens", tuned, record, ["../x"])
    refused("--tuned-lens", "lens", message="documents.txt: line 1 is no id of a document.")
    (work / "empty").mkdir()
    refused("--tuned-lens", "empty", message="empty: there is no tuned lens")


def test_bfloat16_that_cannot_be_had(refused: Refused, work: Path, tiny_model: Path) -> None:
    folder = work / "capped"
    config = AutoConfig.for_model(
        "gemma2", vocab_size=3072, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=12, max_position_embeddings=96,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for path in tiny_model.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    refused("--model", folder, "--unembed", "bfloat16", message="--unembed bfloat16 is for models")


def test_a_disk_without_room(refused: Refused, monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 5, 5))
    refused(message="Lower --max-tokens or --top-k, or name fewer --layers.")
