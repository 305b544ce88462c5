"""POST /v1/predict, /v1/embed and /v1/explain."""

import functools
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from cmaclip_jax.server.batcher import Answers
from cmaclip_jax.server.embeddings import embeddings
from cmaclip_jax.server.limits import malformed
from cmaclip_jax.server.requests import FORM, JSON, SentPairs, read_pairs
from cmaclip_jax.server.service import Service


class SentAnswer(BaseModel):
    """The answer to one task; of a many-label task, the first three are lists.

    accepted: null if the run has no thresholds. weights: of the picture and of the words.
    """

    label: str | list[str] | None
    probability: float | list[float] | None
    accepted: bool | list[bool] | None
    weights: dict[str, float]


class AnsweredPair(BaseModel):
    """The answers to one pair. note: which modalities the pair lacks, or ''."""

    note: str
    answers: dict[str, SentAnswer]


class Predicted(BaseModel):
    """The answers to the pairs, in order. step: of the checkpoint that answered."""

    step: int
    pairs: list[AnsweredPair]


class Embedded(BaseModel):
    """For every pair the embeddings after sequence-wise attention; null for an absent modality."""

    step: int
    pairs: list[dict[str, list[float] | None]]


PICTURES = {"type": "array", "items": {"type": "string", "format": "binary"}}
WORDS = {"type": "array", "items": {"type": "string"}}
FORM_SCHEMA = {"type": "object", "properties": {"image": PICTURES, "text": WORDS}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": SentPairs.model_json_schema(ref_template="#/components/schemas/{model}")
            },
            FORM: {"schema": FORM_SCHEMA},
        },
    }
}


def predict_routes(service: Service) -> APIRouter:
    """The routes that take pairs as JSON or as a form."""
    router = APIRouter(prefix="/v1")

    @router.post("/predict", response_model=Predicted, openapi_extra=BODY)
    async def predict(request: Request) -> JSONResponse:
        """The answers of all tasks to every pair, as `cmaclip predict` gives them."""
        pairs = await read_pairs(request, service.limits)
        step, answers = await service.answer(pairs)
        return JSONResponse({"step": step, "pairs": [sent_answers(pair) for pair in answers]})

    @router.post("/embed", response_model=Embedded, openapi_extra=BODY)
    async def embed(request: Request) -> JSONResponse:
        """The embeddings of the picture and of the words of every pair, of length 1."""
        pairs = await read_pairs(request, service.limits)
        step, rows = await service.aside(pairs, functools.partial(embeddings, service.run.sizes))
        return JSONResponse({"step": step, "pairs": rows})

    @router.post("/explain", response_class=HTMLResponse, openapi_extra=BODY)
    async def explain(request: Request) -> HTMLResponse:
        """Markup with the patches and words that the answers to one pair rest on, for the page."""
        pairs = await read_pairs(request, service.limits)
        if len(pairs) != 1:
            raise malformed("one pair is explained at a time", "pairs")
        return HTMLResponse(await service.explained(pairs[0]))

    return router


def sent_answers(answers: Answers) -> dict[str, Any]:
    """The answers to a pair, as `AnsweredPair` describes them."""
    note = next(iter(answers.values())).note
    return {
        "note": note,
        "answers": {
            task: {
                "label": answer.label,
                "probability": answer.probability,
                "accepted": answer.accepted,
                "weights": answer.weights,
            }
            for task, answer in answers.items()
        },
    }
