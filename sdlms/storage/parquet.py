"""Parquet files, read in blocks of rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.storage.extras import require
from sdlms.storage.fields import columns_of

ROWS_AT_ONCE = 1000


def read_parquet(path: Path, fields: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, record with the columns that the fields need).

    Raises:
        UserError: the file is no parquet file or damaged, lacks a column, or pyarrow is missing.
    """
    require("pyarrow", "datasets", str(path))
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = columns_of(str(path), fields, file.schema_arrow.names)
            batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()).strip(" .")
        raise UserError(f"{path}: cannot be read as parquet: {reason}.") from None
