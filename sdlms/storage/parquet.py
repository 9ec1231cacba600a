"""Parquet files, read in blocks of rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.storage.extras import require
from sdlms.storage.fields import ROWS_AT_ONCE, columns_of


def read_parquet(path: Path, fields: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, record with the columns that the fields need).

    Raises:
        UserError: the file is no parquet file or damaged, lacks a column or has two of its name,
            or pyarrow is missing.
    """
    require("pyarrow", "datasets", str(path))
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = columns_of(str(path), fields, names)
            for column in columns:
                if names.count(column) > 1:  # pyarrow would give the last, and say nothing
                    raise UserError(
                        f"{path}: {names.count(column)} columns are named '{column}'. Rename them."
                    )
            batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()).strip(" .")
        raise UserError(f"{path}: cannot be read as parquet: {reason}.") from None
