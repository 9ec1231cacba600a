"""The study that all integration tests read, made once by the pipeline itself."""

from pathlib import Path

import pytest

from tests.integration.studies import SMALL, Study, carried_out, write_texts


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The pipeline on `sdlms-small`, in a folder whose name has spaces and other letters."""
    folder: Path = tmp_path_factory.mktemp("Läufe und Texte")
    write_texts(folder)
    return carried_out(folder, "schritte für alle.toml", SMALL)
