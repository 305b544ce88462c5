"""The application: all routes of the server, and the answers to errors."""

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cmaclip_jax import __version__
from cmaclip_jax.errors import UserError
from cmaclip_jax.server.gate import INTERNAL, OPEN_FOLDER, Gate
from cmaclip_jax.server.limits import RefusedRequest
from cmaclip_jax.server.open_inference import InferRequest, open_inference_routes, outputs
from cmaclip_jax.server.page import PAGE, PAGE_HEADERS
from cmaclip_jax.server.predict_routes import predict_routes
from cmaclip_jax.server.requests import SentPair
from cmaclip_jax.server.service import Service

# Swagger UI comes with the package fastapi-offline, so the page needs no network.
DOCS_FILES = Path(fastapi_offline.__file__).parent / "static"
SCHEMAS = (SentPair, InferRequest)  # of bodies that the routes read themselves


def make_app(service: Service) -> Gate:
    """The whole application.

    Raises:
      UserError: two outputs would have one name.
    """
    names = [output["name"] for output in outputs(service.run.classifier.tasks, True)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two outputs would be called {twice!r}; rename that task and train anew")
    app = FastAPI(
        title=f"cmaclip_jax: {service.name}",
        version=__version__,
        description="Answers about pairs of a picture and some words.",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(predict_routes(service))
    app.include_router(open_inference_routes(service))
    add_pages(app, service)
    add_errors(app, service)
    return Gate(app, service)


def add_pages(app: FastAPI, service: Service) -> None:
    """The page at /, the documentation at /docs, and /metrics."""

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f".{OPEN_FOLDER}swagger-ui-bundle.js",
            swagger_css_url=f".{OPEN_FOLDER}swagger-ui.css",
            swagger_favicon_url=f".{OPEN_FOLDER}favicon.png",
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        """The counters of the server, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.mount(OPEN_FOLDER.rstrip("/"), StaticFiles(directory=DOCS_FILES))
    described = app.openapi()
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for model in SCHEMAS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}


def add_errors(app: FastAPI, service: Service) -> None:
    """Errors as JSON, {"error": ..., "field": ...}. No body holds a traceback."""

    @app.exception_handler(RefusedRequest)
    async def refused(_request: Request, refusal: RefusedRequest) -> JSONResponse:
        service.metrics.refusals.labels(refusal.reason).inc()
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def known(_request: Request, error: HTTPException) -> JSONResponse:
        service.metrics.refusals.labels("malformed").inc()
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> Response:
        return Response(INTERNAL, 500, media_type="application/json")  # the gate prints the reason

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # for the counters; the client has gone
