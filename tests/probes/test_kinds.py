import subprocess
import sys

import pytest

from sdlms.errors import UserError
from sdlms.probes.kinds import KINDS, kind_of, kind_of_probe
from tests.probes.toy_lessons import KINDS as ITERATIVE
from tests.probes.toy_lessons import toy_network


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_has_a_class_that_is_known_again(name: str) -> None:
    probe = kind_of(name).probe_class()()
    assert kind_of_probe(probe) is KINDS[name]
    assert all(hasattr(probe, method) for method in ("fit", "predict", "settings", "tensors"))


def test_the_table_says_what_the_networks_say() -> None:
    assert [name for name, kind in KINDS.items() if kind.iterative] == ITERATIVE
    for name in ITERATIVE:
        network = toy_network(name)
        assert (network.kind, network.needs_tokens) == (name, KINDS[name].needs_tokens)


def test_an_unknown_kind_is_one_line_with_a_hint() -> None:
    with pytest.raises(UserError, match=r"'atention'\. Did you mean 'attention'"):
        kind_of("atention")
    with pytest.raises(ValueError, match="dict is not"):
        kind_of_probe({})


def test_the_table_alone_imports_nothing_heavy() -> None:
    program = "import sys, sdlms.probes.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
