"""A probe that judges every token: which digits does a layer know to be in an exercise?

sdlms capture --site resid_post --layers 50%
python examples/token_level.py latest
"""

import sys

import numpy as np
import torch

from sdlms.acts import load_acts
from sdlms.probes.logistic import LogisticProbe


def main(run: str) -> tuple[float, float]:
    """Mean probability on tokens of math, and on tokens of other documents."""
    acts = load_acts(run)
    acts = acts.select_layers(acts.layers[-1])  # dims bsh: a mask says which tokens count
    is_math = np.array(acts.document_tasks) == "math"
    train, test = np.arange(0, acts.n_documents, 2), np.arange(1, acts.n_documents, 2)

    # A document's label holds for each of its tokens. Tokens are read in passes over the file:
    # memory does not grow with their number.
    probe = LogisticProbe().fit(acts.slice_batch(train), is_math[train].tolist())
    judged = probe.predict(acts.slice_batch(test))  # [document, token], NaN where the mask is 0
    of_math = torch.from_numpy(is_math[test])
    return float(judged[of_math].nanmean()), float(judged[~of_math].nanmean())


if __name__ == "__main__":
    of_math, of_others = main(sys.argv[1])
    print(f"mean probability on tokens of math {of_math:.3f}, of other tasks {of_others:.3f}")
