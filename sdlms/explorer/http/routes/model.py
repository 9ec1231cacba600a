"""The server itself, and the model it shows."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from sdlms.explorer.http.answer_schemas import Health, ModelInfo
from sdlms.explorer.http.routes.describing import TheExplorer, answers

router = APIRouter(prefix="/api", tags=["model"])


@router.get("/health", response_model=None, responses=answers(Health))
def health(explorer: TheExplorer) -> Response:
    """Whether the server answers, and for which model."""
    return JSONResponse({"status": "ok", "model": explorer.info()["model_name"]})


@router.get("/model_info", response_model=None, responses=answers(ModelInfo))
def model_info(explorer: TheExplorer) -> Response:
    """The model, its states and lenses, and what this explorer takes."""
    return JSONResponse(explorer.info())
