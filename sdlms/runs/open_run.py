"""The folder of a run while it is written, up to the seal."""

import logging
import resource
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from sdlms.progress import LOGGER, readable_seconds
from sdlms.runs.folder import SCRATCH, remove_empty_folders
from sdlms.runs.meta import META, MetaWriter, Record, event_record
from sdlms.runs.outputs import Outputs

LOG = "logs/run.log"


class OpenRun:
    """Everything that is open while a run is written: `meta.jsonl`, the hashing, the log."""

    def __init__(self, folder: Path) -> None:
        """Go on behind the work that `meta.jsonl` tells of; copy the log into the run, in UTC."""
        self.folder = folder
        self.meta = MetaWriter(folder / META)
        self.outputs = Outputs(folder)
        path = folder / LOG
        path.parent.mkdir(exist_ok=True)
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        formatter.converter = time.gmtime
        self._log = logging.FileHandler(path, encoding="utf-8")
        self._log.setFormatter(formatter)
        LOGGER.addHandler(self._log)
        self._began = time.monotonic()

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints."""
        folder = self.folder / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def seal(self, summary: Record) -> None:
        """Write the last records, all at once; what goes wrong until then is the run's failure."""
        with ExitStack() as failing:
            failing.push(self._note_failure)
            remove_empty_folders(self.folder)
            outputs = self.outputs.records(apart={META, LOG})
            records = [event_record("output", fields) for fields in outputs]
            done = self._done(summary)
            LOGGER.info("finished in %s", readable_seconds(done["seconds"]))
            self._close_log()
            records.append(event_record("log", self.outputs.record(LOG)))
            self.meta.finish(records, done)

    def _note_failure(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Note the end of what is about to be raised; it goes on."""
        if error is not None:
            self.note_end(error)

    def _done(self, summary: Record) -> Record:
        """The last record: what the run took, in this try."""
        fields = {
            "seconds": round(time.monotonic() - self._began, 3),
            "peak_memory_bytes": _peak_memory_bytes(),
            **summary,
        }
        return event_record("done", fields)

    def note_end(self, error: BaseException) -> None:
        """Record why the run ends unfinished; the error itself matters more than this record."""
        with suppress(OSError):
            if isinstance(error, KeyboardInterrupt):
                self.meta.event("interrupted", {})
            else:
                self.meta.event("failed", {"error": f"{type(error).__name__}: {error}"})

    def close(self) -> None:
        """Take no more events and outputs."""
        self._close_log()
        self.outputs.close()
        self.meta.close()

    def _close_log(self) -> None:
        """Stop copying the log into the run."""
        LOGGER.removeHandler(self._log)
        self._log.close()


def _peak_memory_bytes() -> int:
    """The most this process held; Linux' `ru_maxrss` would count its parent's peak too."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
