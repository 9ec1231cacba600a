"""What the HTTP server takes, before anybody looks at what is asked.

How long a text may be, or how many tokens a reply may have, is said in `settings.py`.
"""

from dataclasses import dataclass

SEND_SECONDS = 60  # for a client to take what was sent to it, or its connection is given up


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the HTTP server.

    Attributes:
        body_bytes: of one request.
        retry_seconds: after which a client that was refused for now may ask again.
        stop_seconds: that answers under way get to end in when the server stops.
    """

    body_bytes: int = 2**21
    retry_seconds: int = 2
    stop_seconds: int = 3
