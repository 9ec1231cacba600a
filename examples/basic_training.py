"""Tell arithmetic from prose by what one layer of the embedded model makes of a text.

python examples/basic_training.py
"""

from sdlms.acts import collect, tokens_of
from sdlms.numerics.metrics import auroc
from sdlms.probes.logistic import LogisticProbe
from sdlms.tasks import load_tasks


def main() -> float:
    """Fit on every other document, score the rest; return the AUROC."""
    tasks = load_tasks(("math", "prose"), None, "text")
    documents = [document for task in tasks for document in task.documents[:40]]
    is_math = [task.name == "math" for task in tasks for _ in range(40)]

    tokens = tokens_of("sdlms-small", [document.text for document in documents])
    acts = collect("sdlms-small", tokens, layers=1).mean_pool()  # nothing has run yet
    print(acts.explain())

    vectors = acts.realize().tensor  # [document, unit] float32; the model runs here
    probe = LogisticProbe().fit(vectors[::2], is_math[::2])
    scores = probe.predict(vectors[1::2])
    return auroc(scores.numpy(), vectors.new_tensor(is_math[1::2]).bool().numpy())


if __name__ == "__main__":
    print(f"AUROC on documents that were not trained on: {main():.3f}")
