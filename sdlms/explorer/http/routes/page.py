"""The page: files of the package, served by name; nothing else on the disk has a name here."""

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi import Path as InPath
from starlette.responses import FileResponse

from sdlms.explorer.http.routes.describing import Responses, answers

router = APIRouter(tags=["page"])
PAGE = Path(__file__).parents[2] / "page"
# Said here: what the machine's own table says of .js differs, and a module of another type is
# not run.
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {"Cache-Control": "no-cache"}  # asked for again each time: another version may be served


def _file(*suffixes: str) -> Responses:
    """How a file is described."""
    types = [MEDIA_TYPES[suffix].partition(";")[0] for suffix in suffixes]
    content = {kind: {"schema": {"type": "string"}} for kind in types}
    return {200: {"description": "A file of the page.", "content": content}}


@router.head("/", include_in_schema=False)
@router.get("/", response_class=FileResponse, responses=answers(None) | _file(".html"))
def page() -> FileResponse:
    """The page."""
    return _served("index.html")


@router.head("/favicon.ico", include_in_schema=False)
@router.get("/favicon.ico", response_class=FileResponse, responses=answers(None) | _file(".svg"))
def icon() -> FileResponse:
    """The page's icon."""
    return _served("favicon.svg")


@router.head("/static/{name}", include_in_schema=False)
@router.get(
    "/static/{name}",
    response_class=FileResponse,
    responses=answers(None, 404) | _file(*MEDIA_TYPES),
)
def static(name: str = InPath(description="A file's name.")) -> FileResponse:
    """A file of the page."""
    return _served(name)


def _served(name: str) -> FileResponse:
    """One file, found in the folder's own list: a name with a path in it is in no list."""
    files = {path.name: path for path in PAGE.iterdir() if path.suffix in MEDIA_TYPES}
    if name not in files:
        raise HTTPException(404, "the page has no such file")
    return FileResponse(files[name], media_type=MEDIA_TYPES[files[name].suffix], headers=HEADERS)
