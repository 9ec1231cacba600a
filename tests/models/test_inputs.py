import json
import shutil
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.models.inputs import header_of, read_inputs, read_model
from sdlms.models.tokens import Budget, Text
from sdlms.storage.files import sha256_of
from tests.conftest import TOKENIZER
from tests.models.tiny_models import CASES, config_of

TEXTS = [[Text("a", "t", "a plain sentence"), Text("b", "t", "and another one")]]
BUDGET = Budget(max_tokens=100, skip_first=0, seed=0)


def test_a_model_and_its_tokens(tiny_model: Path) -> None:
    inputs = read_inputs(*read_model(str(tiny_model), None), TEXTS, BUDGET)
    record = inputs.model_record()
    assert record["model_type"] == "gpt_neox"
    assert record["n_layers"] == 4
    assert record["config"] == {"config.json": sha256_of(tiny_model / "config.json")}
    assert record["weights"] == {"model.safetensors": sha256_of(tiny_model / "model.safetensors")}
    assert set(record["tokenizer"]) == {"tokenizer.json", "tokenizer_config.json"}
    assert sorted(inputs.tokens.rows.document_ids) == ["a", "b"]


def test_a_model_with_fresh_weights_says_so(tiny_model: Path) -> None:
    plain, fresh = (
        read_inputs(*read_model(str(tiny_model), None, seed), TEXTS, BUDGET).model_record()
        for seed in (None, 3)
    )
    assert (plain["reinit_seed"], fresh["reinit_seed"]) == (None, 3)
    assert plain["weights"] != fresh["weights"]
    assert plain["tokenizer"] == fresh["tokenizer"]


@pytest.mark.parametrize("name", [name for name in CASES if "-" not in name])
def test_every_familys_context_and_vocabulary_are_found(name: str, tmp_path: Path) -> None:
    """Some call them otherwise, some keep them in a part of their config."""
    config = config_of(name, {"vocab_size": 3072, "max_position_embeddings": 40})
    config.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, tmp_path / file)
    long = [[Text("a", "t", "a plain sentence " * 50)]]
    tokens = read_inputs(*read_model(str(tmp_path), None), long, BUDGET).tokens
    assert tokens.rows.n_tokens == 40
    assert tokens.truncated.keys() == {"a"}
    config_of(name, {"vocab_size": 60}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the model knows 60 tokens"):
        read_inputs(*read_model(str(tmp_path), None), TEXTS, BUDGET)


def changed(model: Path, folder: Path, **settings: object) -> str:
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return str(folder)


def test_a_tokenizer_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = changed(tiny_model, tmp_path / "m", vocab_size=50)
    with pytest.raises(UserError, match="the model knows 50 tokens"):
        read_inputs(*read_model(model, None), TEXTS, BUDGET)


def test_an_unlisted_family_says_how_to_add_it(tiny_model: Path, tmp_path: Path) -> None:
    model = changed(tiny_model, tmp_path / "m", model_type="t5")
    with pytest.raises(UserError, match=r"unknown model_type 't5'.*CONTRIBUTING\.md"):
        read_model(model, None)


def test_the_header_says_what_is_stored(tiny_model: Path) -> None:
    source, config = read_model(str(tiny_model), None)
    header = header_of(source, config, ("resid_post", "mlp_act"), [1, 3], "auto")
    assert header.units == {
        ("mlp_act", 1): 64,
        ("mlp_act", 3): 64,
        ("resid_post", 1): 24,
        ("resid_post", 3): 24,
    }
    assert header.store_dtype == {"mlp_act": "float16", "resid_post": "bfloat16"}
    assert header.activation_function == "gelu"
    chosen = header_of(source, config, ("resid_post",), [0], "float32")
    assert chosen.store_dtype == {"resid_post": "float32"}
