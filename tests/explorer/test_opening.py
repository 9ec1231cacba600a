"""An explorer from a model's name, a folder and, where wanted, a tuned lens."""

import json
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.explorer import opening
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import write_tuned
from sdlms.models.loading import find_model, load_config
from sdlms.models.recorded import model_record
from tests.explorer.small import chat, client_of, small_explorer


@pytest.fixture
def tuned_lens(tmp_path: Path) -> Path:
    """A lens of the smallest model that changes nothing."""
    source = find_model("sdlms-small", None)
    config = load_config(source)
    n_layers, d_model = config.num_hidden_layers, config.hidden_size
    tuned = Tuned(torch.zeros(n_layers, d_model, d_model), torch.zeros(n_layers, d_model))
    folder = tmp_path / "lens"
    write_tuned(folder, tuned, model_record(source, config))
    return folder


def test_a_folder_is_taken_up_again(tmp_path: Path) -> None:
    first = small_explorer(tmp_path)
    reply = chat(client_of(first))
    first.close()
    again = small_explorer(tmp_path)
    listed = [each["conversation_id"] for each in again.conversations()]
    again.close()
    assert listed == [reply["conversation_id"]]


def test_a_lens_that_changes_nothing_says_what_the_logit_lens_says(
    tmp_path: Path, tuned_lens: Path
) -> None:
    explorer = small_explorer(tmp_path / "cache", tuned_lens)
    assert explorer.info()["lenses"] == ["logit", "tuned"]
    client = client_of(explorer)
    found = chat(client)["conversation_id"]
    both = [
        client.get(f"/api/activations/{found}/6?lens={lens}").json() for lens in ("logit", "tuned")
    ]
    explorer.close()
    tops = [
        [
            [each["token_id"] for each in cell["top"]]
            for state in panel["states"]
            for cell in state["cells"]
        ]
        for panel in both
    ]
    assert tops[0] == tops[1]


def test_a_folder_without_a_lens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tuned lens"):
        small_explorer(tmp_path / "cache", tmp_path)


def test_rows_of_another_way_to_multiply_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing breaks: the others lie beside, and age."""
    explorer = small_explorer(tmp_path)
    chat(client_of(explorer))
    explorer.close()
    monkeypatch.setattr(opening, "unembed_dtype_of", lambda name, model: "bfloat16")
    explorer = small_explorer(tmp_path)
    assert explorer.conversations() == []
    assert explorer.status()["disk_used_mb"] > 0 and not explorer.status()["warnings"]
    explorer.close()
    keys = [json.loads(path.read_bytes()) for path in tmp_path.glob("*/.key.json")]
    assert sorted(key["unembed"] for key in keys) == ["bfloat16", "float32"]
