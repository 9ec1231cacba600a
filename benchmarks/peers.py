"""The tools that researchers use today, doing what a capture does; imported only when asked for."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from benchmarks.workload import CPU, LAYERS
from sdlms.models.forward import padded_inputs
from sdlms.storage.rows import Rows

NAMES = [f"blocks.{layer}.mlp.hook_post" for layer in LAYERS]
CONTEXT = 256
SEQUENCES = 8


def hooked_transformer(folder: Path) -> Any:
    """TransformerLens' model with the same weights, by its own converter."""
    pytest.importorskip("transformer_lens", exc_type=ImportError)
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights

    original = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = original.config
    config = HookedTransformerConfig(
        d_model=found.hidden_size,
        d_head=found.hidden_size // found.num_attention_heads,
        n_heads=found.num_attention_heads,
        d_mlp=found.intermediate_size,
        n_layers=found.num_hidden_layers,
        n_ctx=found.max_position_embeddings,
        eps=found.layer_norm_eps,
        d_vocab=found.vocab_size,
        act_fn=found.hidden_act,
        use_attn_scale=True,
        parallel_attn_mlp=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=found.hidden_size // found.num_attention_heads // 4,
        normalization_type="LN",
        default_prepend_bos=False,
        device="cpu",
    )
    model = HookedTransformer(config)
    model.load_state_dict(convert_neox_weights(original, config), strict=False)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def lens_at_its_best(model: Any, rows: Rows, batches: Sequence[Sequence[int]], path: Path) -> None:
    """Named hooks only, stopped after the deepest, written as it goes, uncompressed float16."""
    with h5py.File(path, "w") as file:
        width = model.cfg.d_mlp
        stores = {name: file.create_dataset(name, (rows.n_tokens, width), "f2") for name in NAMES}
        for batch in batches:
            ids, _ = padded_inputs(rows, batch, CPU, causal=True)
            _, cache = model.run_with_cache(
                ids, names_filter=NAMES, stop_at_layer=max(LAYERS) + 1, return_type=None
            )
            for name, store in stores.items():
                acts = cache[name].half().numpy()
                for row, document in enumerate(batch):
                    first, last = rows.offsets[document : document + 2]
                    store[first:last] = acts[row, : last - first]


@torch.no_grad()
def lens_by_default(model: Any, rows: Rows, batches: Sequence[Sequence[int]], path: Path) -> None:
    """`logits, cache = model.run_with_cache(tokens)`, caches in a list, gzip at the end."""
    kept: list[dict[str, torch.Tensor]] = []
    for batch in batches:
        ids, _ = padded_inputs(rows, batch, CPU, causal=True)
        _logits, cache = model.run_with_cache(ids)
        kept.append({name: cache[name] for name in NAMES})
    documents = [document for batch in batches for document in batch]
    with h5py.File(path, "w") as file:
        file["documents"] = documents
        for name in NAMES:
            pieces = [
                acts[name][row, : int(rows.lengths[document])]
                for batch, acts in zip(batches, kept, strict=True)
                for row, document in enumerate(batch)
            ]
            stored = torch.cat(pieces).half().numpy()
            file.create_dataset(name, data=stored, compression="gzip")


class SaeLens:
    """`CacheActivationsRunner.run` on one hook; model and data set are loaded beforehand."""

    def __init__(self, model: Any, rows: Rows, folder: Path) -> None:
        """`model` is a HookedTransformer, or the folder of a transformers model."""
        from datasets import Dataset

        self.model, self.folder = model, folder / f"sae_{type(model).__name__}"
        hooked = not isinstance(model, str)
        self.hook = NAMES[1] if hooked else f"gpt_neox.layers.{LAYERS[1]}.mlp.act"
        self.rows, self.hooked = rows, hooked
        self.data = Dataset.from_dict({"input_ids": rows.ids.reshape(-1, CONTEXT).tolist()})
        self.d_mlp = 4 * (
            model.cfg.d_model
            if hooked
            else GPTNeoXForCausalLM.config_class.from_pretrained(model).hidden_size
        )
        self.runner = self._runner()

    def _runner(self) -> Any:
        """A runner whose data set starts from the beginning."""
        from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
        from sae_lens import cache_activations_runner as module

        config = CacheActivationsRunnerConfig(
            dataset_path="random",
            model_name="random" if self.hooked else self.model,
            model_class_name="HookedTransformer" if self.hooked else "AutoModelForCausalLM",
            model_batch_size=SEQUENCES,
            hook_name=self.hook,
            d_in=self.d_mlp,
            training_tokens=self.rows.n_tokens,
            context_size=CONTEXT,
            new_cached_activations_path=str(self.folder),
            shuffle=False,
            prepend_bos=False,
            streaming=False,
            dtype="float32",
            device="cpu",
            # One buffer of all tokens: its fewest shards.
            buffer_size_gb=self.rows.n_tokens * self.d_mlp * 4 / 1e9,
        )
        original = module.load_model
        if self.hooked:  # by name it would come from the hub
            module.load_model = lambda **_: self.model
        try:
            return CacheActivationsRunner(config, override_dataset=self.data)
        finally:
            module.load_model = original

    def run(self) -> dict[str, float]:
        """Write the activations; preparing the runner is not counted against it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.runner.run()
        return {}
