"""Data sets of the Hugging Face hub, or local folders laid out like one, read by `datasets`.

`datasets` converts a data set once into Arrow files under `HF_HOME` and reads rows from there
without loading them all; what was read once is found again without a network. Code that comes with
a data set is never run.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlms.errors import UserError, did_you_mean
from sdlms.storage.extras import require
from sdlms.storage.fields import ROWS_AT_ONCE, columns_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_REASON = 300
SAVED_TO_DISK = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class DataSplit:
    """One split of a data set, opened.

    Attributes:
        where: opens the messages.
        config: the configuration as `datasets` names it; `default` where there is one only.
        commit: the hub's commit; None for a folder.
        rows: the `datasets.Dataset`.
    """

    where: str
    config: str
    commit: str | None
    rows: Any

    def read(self, fields: Iterable[str], most: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (row number from 1, record with the columns that the fields need).

        Args:
            fields: what is needed of each row.
            most: how many rows are read, from the first; None for all.

        Raises:
            UserError: there is no such column, or a row cannot be decoded.
        """
        columns = columns_of(self.where, fields, self.rows.column_names)
        n_rows = len(self.rows) if most is None else min(most, len(self.rows))
        blocks = self.rows.select_columns(columns).select(range(n_rows)).iter(ROWS_AT_ONCE)
        with _refusing(self.where):
            rows = (row for block in blocks for row in zip(*map(block.get, columns), strict=True))
            for number, row in enumerate(rows, start=1):
                yield number, dict(zip(columns, row, strict=True))


def open_split(
    where: str, source: Path | str, config: str | None, split: str, revision: str | None
) -> DataSplit:
    """Open a split; fetch and convert the data set where the cache does not hold it.

    Args:
        where: opens the messages: the manifest's line and the data set.
        source: a local folder, or a hub id `owner/name`.
        config: None for the default one.
        split: its name.
        revision: branch, tag or commit of a hub data set.

    Raises:
        UserError: a library or the data set is missing, unknown or damaged; a script makes it; it
            lacks the config or the split; or the cache holds another revision only.
    """
    require("datasets", "datasets", where)
    if isinstance(source, Path):
        _check_folder(where, source)
        path = str(source.resolve())
    elif HUB_ID.fullmatch(source):
        path = f"hf://datasets/{source}"  # bare, a folder of that name would be read instead
    else:
        raise UserError(f"{where}: neither a folder that exists nor a hub id (owner/name).")
    with _refusing(where):
        builder = _builder(where, path, config, revision)
        _check_split(where, split, builder)
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
    if builder.name == "cache":
        _check_cached(where, str(source), revision, builder.hash)
    commit = builder.hash if builder.repo_id and COMMIT.fullmatch(builder.hash) else None
    return DataSplit(where, builder.config.name, commit, rows)


def _check_folder(where: str, folder: Path) -> None:
    """Refuse what is no data set in the hub's layout."""
    if not folder.is_dir():
        kind = "a file; name it as 'file'" if folder.is_file() else "no such folder"
        raise UserError(f"{where}: {kind}.")
    if any((folder / name).is_file() for name in SAVED_TO_DISK):
        raise UserError(
            f"{where}: written by save_to_disk, which has another layout. Write parquet files "
            "into the folder with to_parquet."
        )


def _builder(where: str, path: str, config: str | None, revision: str | None) -> Any:
    """What `datasets` knows of a data set before its data is fetched."""
    import datasets

    try:
        return datasets.load_dataset_builder(path, config, revision=revision)
    except ConnectionError:
        raise _not_cached(where, "it") from None
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise UserError(
            f"{where}: made by a script, and scripts are never run. Name a copy in parquet; the "
            'hub keeps one of many data sets under "revision": "refs/convert/parquet".'
        ) from None
    except ValueError as error:
        if str(error).startswith("Couldn't find cache"):
            raise _not_cached(where, f"config '{config}'") from None
        known = datasets.get_dataset_config_names(path, revision=revision)
        if config is None and len(known) > 1:
            raise UserError(f"{where}: needs 'config'. Known: {', '.join(known)}.") from None
        if config is not None and config not in known:
            hint = did_you_mean(config, known)
            raise UserError(f"{where}: no config '{config}'.{hint}") from None
        raise


def _not_cached(where: str, what: str) -> UserError:
    """What to do about a data set that is neither reachable nor here."""
    return UserError(
        f"{where}: the hub cannot be reached and the cache under HF_HOME does not hold {what}. "
        "Run once with a network, or give a local folder."
    )


def _check_split(where: str, split: str, builder: Any) -> None:
    """Refuse an unknown split before anything is fetched."""
    known = [str(name) for name in builder.info.splits or builder.config.data_files or ()]
    if known and split not in known:
        raise UserError(f"{where}: no split '{split}'.{did_you_mean(split, known)}")


def _check_cached(where: str, hub_id: str, revision: str | None, commit: str) -> None:
    """Refuse what `datasets` took from its cache when that is not the revision asked for.

    Without a network it takes the newest of what it holds, whichever revision that was.
    """
    from huggingface_hub import try_to_load_from_cache

    wanted = revision or "main"
    if not COMMIT.fullmatch(wanted):
        card = try_to_load_from_cache(hub_id, "README.md", revision=wanted, repo_type="dataset")
        wanted = Path(card).parent.name if isinstance(card, str) else wanted
    if wanted != commit and (revision is not None or COMMIT.fullmatch(wanted)):
        raise UserError(
            f"{where}: the hub cannot be reached, and the newest that the cache under HF_HOME "
            f"holds is commit {commit}, not '{revision or wanted}'. Run once with a network."
        )


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """What `datasets` and the hub raise becomes one line; they neither draw bars nor log it too."""
    import datasets
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its httpx
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from yaml import YAMLError

    # The hub's own log holds a warning for each of its retries when there is no network.
    levels = [(log, log.get_verbosity()) for log in (datasets.logging, hub_logging)]
    for log, _ in levels:
        log.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    disable_progress_bars()
    kinds = (OSError, ValueError, RuntimeError, EOFError, HTTPError, YAMLError)
    try:
        yield
    except (*kinds, datasets.exceptions.DatasetsError) as error:
        wrapped = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = " ".join(str((wrapped and error.__cause__) or error).split()).strip(" .!")
        raise UserError(f"{where}: cannot be read: {reason[:LONGEST_REASON]}.") from None
    finally:
        for log, level in levels:
            log.set_verbosity(level)
