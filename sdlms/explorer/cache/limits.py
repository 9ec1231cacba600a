"""How much the explorer's cache may take; light, so that the command can read it for its help."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheLimits:
    """What the cache may take, and how long it keeps what nobody uses.

    Attributes:
        memory_bytes: rows and records in memory.
        disk_bytes: files of all models in the cache's folder.
        memory_seconds: after its last use a conversation leaves the memory.
        disk_seconds: after its last use a conversation leaves the disk.
    """

    memory_bytes: int = 10**9
    disk_bytes: int = 10 * 10**9
    memory_seconds: float = 3600.0
    disk_seconds: float = 7 * 86400.0
