"""Gating takes little memory beside the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGEST, LASTING = 0.1, 0.05  # of the weights

# Its own process: memory that earlier tests have freed would be taken again unseen.
CHILD = """
import json, threading, time
from pathlib import Path
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from sdlms.models.gated import Learned, gated
from sdlms.models.gating.learned import QUANTILES, Allocation, LearnedLayer

torch.set_num_threads(1)
D, LAYERS = 768, 8
config = GPTNeoXConfig(
    vocab_size=256, hidden_size=D, intermediate_size=4 * D, num_hidden_layers=LAYERS,
    num_attention_heads=12, max_position_embeddings=64,
)
with torch.device("meta"):
    model = GPTNeoXForCausalLM(config)
model = model.to_empty(device="cpu").eval()
for parameter in model.parameters():
    parameter.data.uniform_(-0.05, 0.05)
for module in model.modules():
    for name, buffer in module.named_buffers(recurse=False):
        buffer.zero_()
curve = QUANTILES.float()
path = Allocation(*(torch.tensor(x, dtype=torch.float64) for x in (
    [0.05, 1.0], [[0.05, 0.05], [1.0, 1.0]], [1.0, 0.0])))
layer = LearnedLayer(
    scores=curve, held=curve, mean_scores=torch.rand(4 * D), inputs=(curve, curve),
    allocation=path, block=None,
)
learned = Learned(dict.fromkeys(range(LAYERS), layer))
ids = torch.arange(16)[None]
peak, watching = [0], True

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

def watch():
    while watching:
        peak[0] = max(peak[0], resident())
        time.sleep(0.001)

@torch.no_grad()
def run():
    output = model(ids, use_cache=True)
    model(ids[:, :1], past_key_values=output.past_key_values)

thread = threading.Thread(target=watch)
thread.start()
run()
run()
n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
found = {}
for rule in ("post-norm", "input", "static", "sequence"):
    before = resident()
    peak[0] = before
    with gated(model, rule, 0.3, learned=learned):
        run()
        inside = resident()
    most = peak[0]
    found[rule] = [(value - before) / n_bytes for value in (most, inside, resident())]
watching = False
thread.join()
print(json.dumps({"bytes": n_bytes, "more": found}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' /proc")
def test_the_memory_beside_the_weights_is_small() -> None:
    """At the highest, inside, and afterwards, over the same model before it was gated."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] > 200e6
    for rule, (most, inside, afterwards) in found["more"].items():
        assert most <= LARGEST, (rule, most)
        assert max(inside, afterwards) <= LASTING, (rule, inside, afterwards)
