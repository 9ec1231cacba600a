"""Numbers that must stay: the embedded model on frozen text, in float32, seed 0, one thread.

They were measured when the first study was whole. One that changes is a change of a model, of the
text, or of a definition, and belongs into the changelog. Other processors round otherwise, so one
part in a thousand is allowed.
"""

import pytest

from sdlms.storage.tables import read_table
from tests.integration.studies import Study

pytestmark = pytest.mark.slow
TOLERANCE = 1e-3
# (layer, task) -> activation_fraction, participation_ratio, firing_rate
SPARSITY = {
    (0, "python_code"): (0.2290265, 24.50687, 0.1141285),
    (0, "math"): (0.1417747, 15.45058, 0.0686751),
    (0, "prose"): (0.2255772, 24.39527, 0.1144571),
    (1, "python_code"): (0.06995513, 7.239495, 0.06709277),
    (1, "math"): (0.07647889, 8.013879, 0.07318376),
    (1, "prose"): (0.06540855, 6.879107, 0.06271645),
    (2, "python_code"): (0.09370212, 10.11114, 0.07797111),
    (2, "math"): (0.09423193, 9.829907, 0.07707695),
    (2, "prose"): (0.109357, 11.73339, 0.09325848),
}
# (layer, task) -> SI, SI_adjusted, firing_rate; means of single tasks jump where a unit's preferred
# task does, so they are left out.
SPECIALIZATION = {
    (0, "all"): (0.04310279, 0.03854574, 0.09828046),
    (1, "all"): (0.09210631, 0.0833035, 0.06945993),
    (2, "all"): (0.1024966, 0.09369049, 0.08955847),
}


def cells(study: Study, stage: str, file: str, columns: list[str]) -> dict[tuple[int, str], object]:
    """`(layer, task) -> the named columns` of a table."""
    rows = read_table(study.runs[stage] / file)
    return {
        (int(row["layer"]), row["task"]): tuple(float(row[column]) for column in columns)
        for row in rows
    }


def test_activation_sparsity(study: Study) -> None:
    columns = ["activation_fraction", "participation_ratio", "firing_rate"]
    found = cells(study, "capture", "sparsity.csv", columns)
    assert {key: found[key] for key in SPARSITY} == {
        key: pytest.approx(values, rel=TOLERANCE) for key, values in SPARSITY.items()
    }


def test_specialization(study: Study) -> None:
    columns = ["SI", "SI_adjusted", "firing_rate"]
    found = cells(study, "si-modularity", "si_modularity.csv", columns)
    assert {key: found[key] for key in SPECIALIZATION} == {
        key: pytest.approx(values, rel=TOLERANCE) for key, values in SPECIALIZATION.items()
    }
