"""What a sweep costs, in counts: bytes read, forward passes, peak memory. Never time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdlms.acts.file_source import FileSource
from sdlms.acts.handle import Acts
from sdlms.acts.live_source import LiveSource, live_source
from sdlms.acts.opening import load_acts
from sdlms.acts.token_rows import rows_of
from sdlms.probes.mass_mean import MassMeanProbe
from tests.models.tiny_models import random_model

N_LAYERS, N_DOCUMENTS, N_TOKENS, N_UNITS = 16, 40, 100, 64
ROWS = N_DOCUMENTS * N_TOKENS
LAYER_BYTES = ROWS * (2 * N_UNITS + 1)  # bfloat16, and a byte of mask
PROGRAM = """
import sys
from pathlib import Path
from sdlms.acts import load_acts

def size(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

acts = load_acts(sys.argv[1])
acts = acts.select_layers(list(acts.layers[: int(sys.argv[2])])).mean_pool()
for _, layer in acts.select_layers([0]).iter_layers():  # what is loaded once, is loaded now
    layer.tensor.sum()
before = size("VmHWM:")
for _, layer in acts.iter_layers():
    layer.tensor.sum()
print(size("VmHWM:") - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 layers, 8 MB."""
    where = tmp_path_factory.mktemp("sweep") / "activations.h5"
    tensor = torch.randn(N_DOCUMENTS, N_LAYERS, N_TOKENS, N_UNITS).bfloat16()
    Acts(tensor, "blsh", mask=torch.ones(N_DOCUMENTS, N_TOKENS)).save(where)
    return where


def bytes_read(acts: Acts) -> int:
    source = acts._source
    assert isinstance(source, FileSource)
    return source.bytes_read


def test_a_sweep_reads_every_byte_once(path: Path) -> None:
    acts = load_acts(path)
    labels = [document % 2 == 0 for document in range(N_DOCUMENTS)]
    for _, layer in acts.mean_pool().iter_layers():
        MassMeanProbe().fit(layer.tensor, labels).predict(layer.tensor)
    assert bytes_read(acts) == N_LAYERS * LAYER_BYTES


def test_one_layer_reads_a_sixteenth(path: Path) -> None:
    acts = load_acts(path)
    acts.select_layers(7).mean_pool().realize()
    assert bytes_read(acts) == LAYER_BYTES


def test_a_sweep_over_a_model_is_one_forward_pass() -> None:
    source = live_source(random_model("gpt2"), rows_of([[1, 2, 3]] * 4), "all", "mlp_act")
    assert isinstance(source, LiveSource)
    layers = [layer for layer, _ in Acts._of(source).mean_pool().iter_layers()]
    assert len(layers) == 3
    assert source.n_forwards == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_memory_does_not_grow_with_the_layers(path: Path) -> None:
    def peak(n_layers: int) -> int:
        command = [sys.executable, "-c", PROGRAM, str(path), str(n_layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    file_kilobytes = path.stat().st_size / 1024
    assert peak(N_LAYERS) - peak(2) < file_kilobytes / 16, "less than one of fourteen more layers"
