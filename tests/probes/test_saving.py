import json
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.probes.kinds import KINDS, Probe
from sdlms.probes.saving import load_probe, save_probe
from tests.probes.toy_lessons import KINDS as ITERATIVE
from tests.probes.toy_lessons import toy_network

X = torch.randn(30, 5, 7, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(5) < torch.arange(30)[:, None] % 4 + 2
Y = torch.arange(30) % 2 == 0


def fitted(name: str) -> Probe:
    probe_class = KINDS[name].probe_class()
    probe = (
        probe_class(toy_network(name, max_epochs=2).settings)
        if name in ITERATIVE
        else probe_class()
    )
    return probe.fit(X, Y, MASK)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_saved_probe_predicts_the_same_bits(tmp_path: Path, name: str) -> None:
    probe = fitted(name)
    save_probe(tmp_path / "layer.2", probe)
    again = load_probe(tmp_path / "layer.2")
    assert type(again) is type(probe)
    one, other = probe.predict(X, MASK), again.predict(X, MASK)
    assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "layer.2.json",
        "layer.2.safetensors",
    ]


def test_equal_probes_give_equal_bytes(tmp_path: Path) -> None:
    for stem in ("one", "other"):
        save_probe(tmp_path / stem, fitted("multimax"))
    for ending in (".json", ".safetensors"):
        one, other = ((tmp_path / f"{stem}{ending}").read_bytes() for stem in ("one", "other"))
        assert one == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2 of the probe format"),
        ({"kind": "oracle"}, "unknown kind of probe 'oracle'"),
        ({"format": "other"}, "not a saved probe"),
        ({"settings": {"widht": 3}}, "not what a probe of kind mlp needs"),
        ({"kind": "attention", "settings": {}}, "not what a probe of kind attention needs"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_probe(tmp_path / "p", fitted("mlp"))
    path = tmp_path / "p.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as caught:
        load_probe(tmp_path / "p")
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_probe(tmp_path / "p")
    save_probe(tmp_path / "p", fitted("mlp"))
    (tmp_path / "p.safetensors").unlink()
    with pytest.raises(UserError, match=r"p\.safetensors: there is no such file"):
        load_probe(tmp_path / "p")
    for text, message in (("{", "not valid JSON"), ("[]", "not a saved probe")):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_probe(tmp_path / "p")
    (tmp_path / "p.json").write_text('{"format": "sdlms-probe", "version": 1, "kind": "mlp"}')
    with pytest.raises(UserError, match="lacks settings"):
        load_probe(tmp_path / "p")
