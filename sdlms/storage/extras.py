"""Libraries of the optional extras: looked for before they are imported, never by trying."""

from importlib.util import find_spec

from sdlms.errors import UserError


def require(module: str, extra: str, where: str) -> None:
    """Refuse where an optional library is missing; `where` opens the message.

    Raises:
        UserError: the library is not installed.
    """
    if find_spec(module) is None:
        raise UserError(
            f"{where}: needs the library '{module}'. Install it: pip install 'sdlms[{extra}]'"
        )
