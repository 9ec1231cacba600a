"""Activations that never are in memory at once: the model runs once, batch by batch, into a cache.

python examples/streaming.py
"""

from sdlms.acts import collect, realize_all, tokens_of
from sdlms.tasks import load_tasks


def main() -> tuple[float, float]:
    """Mean length of mean-pooled and of last-token vectors, one pass over the cache for both."""
    (task,) = load_tasks(("dialogue",), None, "text")
    tokens = tokens_of("sdlms-small", [document.text for document in task.documents[:100]])
    acts = collect("sdlms-small", tokens, layers="all", site="resid_post")

    kept = acts.cache()  # runs the model, unless the cache holds these activations already
    print(kept.explain())
    n_tokens = sum(int(batch.mask.sum()) for batch in kept.iter_batches(16))
    print(f"{n_tokens} tokens of {kept.n_documents} documents, {len(kept.layers)} layers")

    mean, last = realize_all(kept.mean_pool(), kept.last_pool())
    return float(mean.tensor.norm(dim=-1).mean()), float(last.tensor.norm(dim=-1).mean())


if __name__ == "__main__":
    of_mean, of_last = main()
    print(f"length of mean vectors {of_mean:.2f}, of last tokens {of_last:.2f}")
