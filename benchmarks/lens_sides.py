"""One side of the lens benchmark in a process of its own, so that its peak memory is its own.

`python -m benchmarks.lens_sides SIDE FOLDER` prints one JSON line: seconds from token ids to
predictions, those of preparing, and peak memory above that of the loaded model.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import set_environment

set_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402

from benchmarks.lens_peer import Lensing, in_memory, measured  # noqa: E402
from benchmarks.workload import CPU  # noqa: E402
from sdlms.lens.measuring import Lens  # noqa: E402
from sdlms.lens.residuals import residuals  # noqa: E402
from sdlms.lens.states import states_of  # noqa: E402
from sdlms.lens.unembedding import UnembedDtype  # noqa: E402
from sdlms.models.architectures import n_layers  # noqa: E402
from sdlms.models.device import set_threads  # noqa: E402
from sdlms.models.loading import ModelSource, load_causal_model  # noqa: E402
from sdlms.models.unembedding import final_norm_of, unembedding_of  # noqa: E402

N_TOP = 10
Loading = Callable[[Path], Callable[[], Lensing]]


def _model(folder: Path) -> PreTrainedModel:
    model = load_causal_model(ModelSource("bench", folder), torch.float32, CPU)
    in_memory(model)
    return model


def ours(folder: Path, unembed: UnembedDtype) -> Callable[[], Lensing]:
    """Everything of `LensRows`: entropy, KL and the next token's rank too."""
    model = _model(folder)
    count = n_layers(model.config)
    states = states_of(count, range(count))

    def prepare() -> Lensing:
        lens = Lens(model, N_TOP, unembed)

        def work(ids: NDArray[np.int64]) -> NDArray[np.float32]:
            tokens = torch.from_numpy(ids)
            with residuals(model, states) as stream:
                resid = stream.run(tokens[None])[0]
            next_ids = torch.cat([tokens[1:], torch.tensor([-1])])
            return lens.measure(resid, next_ids).top_probabilities[..., 0]

        return work

    return prepare


def original(folder: Path) -> Callable[[], Lensing]:
    """The softmax of every layer kept, then the most probable tokens of each."""
    model = _model(folder)
    norm, head = final_norm_of(model), unembedding_of(model)
    assert norm is not None

    @torch.no_grad()
    def work(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        found = model(torch.from_numpy(ids)[None], output_hidden_states=True, use_cache=False)
        lens = [head(norm(hidden)).softmax(-1) for hidden in found.hidden_states[:-1]]
        lens.append(found.logits.softmax(-1))
        return _largest([layer[0].topk(N_TOP).values for layer in lens])

    return lambda: work


def transformer_lens(folder: Path) -> Callable[[], Lensing]:
    """As its documentation has it: the whole cache, one product for all layers."""
    model = hooked(folder)

    @torch.no_grad()
    def work(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        _, cache = model.run_with_cache(torch.from_numpy(ids)[None])
        resid = cache.accumulated_resid(apply_ln=True)
        probabilities = model.unembed(resid).softmax(-1)
        return _largest(list(probabilities.topk(N_TOP).values[:, 0]))

    return lambda: work


def transformer_lens_by_layer(folder: Path) -> Callable[[], Lensing]:
    """At its best: only the stream is cached, logits live for a layer."""
    model = hooked(folder)
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"

    def wanted(name: str) -> bool:
        return name.endswith("resid_pre") or name in (last, "ln_final.hook_scale")

    @torch.no_grad()
    def work(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        _, cache = model.run_with_cache(
            torch.from_numpy(ids)[None], names_filter=wanted, return_type=None
        )
        resid = cache.accumulated_resid(apply_ln=True)
        return _largest([model.unembed(x)[0].softmax(-1).topk(N_TOP).values for x in resid])

    return lambda: work


def _largest(top: list[torch.Tensor]) -> NDArray[np.float32]:
    """`[token, state]` of each state's `[token, n_top]`."""
    found: NDArray[np.float32] = torch.stack([layer[:, 0] for layer in top], dim=1).numpy()
    return found


def hooked(folder: Path) -> Any:
    """TransformerLens' model with the same weights, by its own converters, nothing folded."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    logging.getLogger().setLevel(logging.ERROR)
    original = _model(folder)
    found = original.config
    shared = {
        "d_model": found.hidden_size,
        "d_head": found.hidden_size // found.num_attention_heads,
        "n_heads": found.num_attention_heads,
        "d_mlp": 4 * found.hidden_size,
        "n_layers": found.num_hidden_layers,
        "n_ctx": found.max_position_embeddings,
        "d_vocab": found.vocab_size,
        "use_attn_scale": True,
        "normalization_type": "LN",
        "default_prepend_bos": False,
        "device": "cpu",
    }
    if found.model_type == "gpt2":
        config = HookedTransformerConfig(**shared, eps=found.layer_norm_epsilon, act_fn="gelu_new")
        weights = weight_conversions.convert_gpt2_weights(original, config)
    else:
        share = found.rope_parameters["partial_rotary_factor"]
        config = HookedTransformerConfig(
            **shared,
            eps=found.layer_norm_eps,
            act_fn=found.hidden_act,
            parallel_attn_mlp=True,
            positional_embedding_type="rotary",
            rotary_adjacent_pairs=False,
            rotary_dim=int(found.hidden_size // found.num_attention_heads * share),
        )
        weights = weight_conversions.convert_neox_weights(original, config)
    model = HookedTransformer(config)
    model.load_state_dict(weights, strict=False)
    in_memory(model.eval())
    return model


SIDES: dict[str, Loading] = {
    "sdlms, bfloat16": lambda folder: ours(folder, "bfloat16"),
    "sdlms, float32": lambda folder: ours(folder, "float32"),
    "all logits kept": original,
    "TransformerLens": transformer_lens,
    "TransformerLens, layer by layer": transformer_lens_by_layer,
}


if __name__ == "__main__":
    side, where = sys.argv[1], Path(sys.argv[2])
    set_threads(0)
    print(json.dumps(measured(SIDES[side](where), where, side)))
