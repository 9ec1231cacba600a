from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.explorer.loaded import load_for_exploring
from sdlms.models.loading import find_model
from tests.explorer.explorers import small_model, tiny_model
from tests.explorer.toy_tokenizers import tiny_neox, with_template


def test_the_key_tells_models_and_dtypes_apart() -> None:
    source = find_model("sdlms-small", None)
    other = load_for_exploring(source, torch.bfloat16, torch.device("cpu"))
    keys = [loaded.cache_key() for loaded in (small_model(), other, tiny_model("gpt2"))]
    assert keys[0] == small_model().cache_key()
    assert all(a != b for n, a in enumerate(keys) for b in keys[:n])
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"dtype"}
    assert keys[0]["weights"]["model.safetensors"] and keys[0]["device"] == "cpu"


def test_a_loaded_model_is_ready_to_be_asked() -> None:
    loaded = small_model()
    assert not loaded.model.training
    assert (loaded.name, loaded.dtype, loaded.prompting.context) == ("sdlms-small", "float32", 512)


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}"])
def test_a_tokenizer_whose_chats_the_model_cannot_read_is_refused(
    tmp_path: Path, template: str | None
) -> None:
    tokenizer = with_template("byte-level", template)
    tokenizer.save_pretrained(tmp_path)
    tiny_neox(64, 32).save_pretrained(tmp_path)  # knows a few bytes
    source = find_model(str(tmp_path), None)
    if template is None:
        with pytest.raises(UserError, match="They do not belong together"):
            load_for_exploring(source, torch.float32, torch.device("cpu"))
    else:  # nothing can be said before the first chat
        loaded = load_for_exploring(source, torch.float32, torch.device("cpu"))
        assert loaded.prompting.d_vocab == 64
