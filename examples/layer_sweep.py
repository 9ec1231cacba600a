"""In which layer does it show best whether a text is arithmetic? A sweep over a capture run.

sdlms capture --site resid_post --layers all
python examples/layer_sweep.py latest
"""

import sys

import numpy as np

from sdlms.acts import load_acts
from sdlms.numerics.metrics import auroc
from sdlms.numerics.splits import TEST, grouped_split
from sdlms.probes.mass_mean import MassMeanProbe


def main(run: str) -> dict[int, float]:
    """AUROC by layer; one layer at a time is read and held."""
    acts = load_acts(run)
    is_math = np.array(acts.document_tasks) == "math"
    roles = grouped_split(np.arange(acts.n_documents), is_math, seed=0)
    test = roles == TEST
    found = {}
    for layer, pooled in acts.mean_pool().iter_layers():
        vectors = pooled.tensor  # [document, unit] float32
        probe = MassMeanProbe().fit(vectors[~test], is_math[~test].tolist())
        found[layer] = auroc(probe.predict(vectors[test]).numpy(), is_math[test])
    return found


if __name__ == "__main__":
    for layer, value in main(sys.argv[1]).items():
        print(f"layer {layer}: AUROC {value:.3f}")
