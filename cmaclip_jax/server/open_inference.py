"""The Open Inference Protocol, version 2: health, metadata, and inference with tensors in JSON.

A model has two inputs of BYTES, `image` and `text`, of shape [n]. An image is the base64 of a
file; an empty string stands for a gap. The outputs are the columns that `cmaclip predict` writes:
for each task its label, its probability, whether it is accepted, and the picture's weight. `|`
separates the members of a many-label answer. `note` names the modalities that a pair lacks.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cmaclip_jax import __version__
from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.tables import SEPARATOR
from cmaclip_jax.server.batcher import Answers
from cmaclip_jax.server.limits import Limits, malformed
from cmaclip_jax.server.requests import MOST_PAIRS, check_pairs, decoded, read_json
from cmaclip_jax.server.service import Service
from cmaclip_jax.serving.classifier import Answer
from cmaclip_jax.tasks import Task

INPUTS = ("image", "text")
NOTE = "note"


class Tensor(BaseModel):
    """An input of BYTES: strings, flat or nested as the shape says."""

    model_config = ConfigDict(strict=True)
    name: str
    shape: list[Annotated[int, Field(ge=0, le=MOST_PAIRS)]] = Field(min_length=1, max_length=4)
    datatype: str
    data: list[Any] = Field(max_length=MOST_PAIRS)


class WantedOutput(BaseModel):
    """An output that is wanted."""

    name: str


class InferRequest(BaseModel):
    """A request of the protocol; unknown fields are ignored, as it says."""

    id: str | None = None
    inputs: list[Tensor] = Field(max_length=len(INPUTS))
    outputs: list[WantedOutput] | None = Field(None, max_length=MOST_PAIRS)


BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
    }
}


def open_inference_routes(service: Service) -> APIRouter:
    """The routes of the protocol for the one model of the server."""
    router = APIRouter(prefix="/v2")

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """200 when all sizes of a batch are compiled, before that 503."""
        service.check_ready()
        return {"ready": True}

    @router.get("")
    async def server() -> dict[str, Any]:
        """The server."""
        return {"name": "cmaclip_jax", "version": __version__, "extensions": []}

    add_model_routes(router, service)
    return router


def add_model_routes(router: APIRouter, service: Service) -> None:
    """The routes below the name of the model."""
    model = "/models/{name}"

    def check_name(name: str) -> None:
        if name != service.name:
            raise malformed(f"no model {name!r}; there is {service.name!r}", "name", 404)

    @router.get(model)
    async def metadata(name: str) -> dict[str, Any]:
        """The inputs and the outputs of the model."""
        check_name(name)
        return describe(service)

    @router.get(f"{model}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        """The same as /v2/health/ready, for the model."""
        check_name(name)
        service.check_ready()
        return {"name": name, "ready": True}

    @router.post(f"{model}/infer", openapi_extra=BODY)
    async def infer(name: str, request: Request) -> JSONResponse:
        """The answers of all tasks, as tensors."""
        check_name(name)
        return JSONResponse(await inferred(service, await read_json(request, InferRequest)))


async def inferred(service: Service, sent: InferRequest) -> dict[str, Any]:
    """The answer to a request of the protocol."""
    pairs = tensor_pairs(sent.inputs, service.limits)
    classifier = service.run.classifier
    described = outputs(classifier.tasks, bool(classifier.thresholds))
    wanted = _wanted(sent, [tensor["name"] for tensor in described])
    step, answers = await service.answer(pairs)
    tensors = answer_tensors(classifier.tasks, answers)
    about = {"model_name": service.name, "model_version": str(step)}
    own = {"id": sent.id} if sent.id is not None else {}
    return about | own | {"outputs": [tensors[name] for name in wanted]}


def describe(service: Service) -> dict[str, Any]:
    """The metadata of the model."""
    classifier = service.run.classifier
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in INPUTS]
    return {
        "name": service.name,
        "versions": [str(service.run.step)],
        "platform": "cmaclip_jax",
        "inputs": inputs,
        "outputs": outputs(classifier.tasks, bool(classifier.thresholds)),
    }


def outputs(tasks: Sequence[Task], has_thresholds: bool) -> list[dict[str, Any]]:
    """The names and types of all outputs."""
    kinds = []
    for task in tasks:
        kinds.append((task.name, "BYTES"))
        kinds.append((f"{task.name}_probability", "BYTES" if task.many else "FP32"))
        if has_thresholds:
            kinds.append((f"{task.name}_accepted", "BYTES" if task.many else "BOOL"))
        kinds.append((f"{task.name}_image_weight", "FP32"))
    return [
        {"name": name, "datatype": kind, "shape": [-1]} for name, kind in (*kinds, (NOTE, "BYTES"))
    ]


def tensor_pairs(inputs: Sequence[Tensor], limits: Limits) -> list[Pair]:
    """The pairs of the input tensors; a mistake names the tensor."""
    columns: dict[str, list[str]] = {}
    for number, tensor in enumerate(inputs):
        field = f"inputs.{number}"
        if tensor.name not in INPUTS:
            raise malformed("the inputs are image and text", f"{field}.name")
        if tensor.datatype != "BYTES":
            raise malformed("has to be BYTES", f"{field}.datatype")
        columns[tensor.name] = _strings(tensor, field)
    sizes = {len(column) for column in columns.values()}
    if len(sizes) != 1 or sizes == {0}:
        raise malformed("needs image, text or both, of one length", "inputs")
    (count,) = sizes
    images = [_image(data, row) for row, data in enumerate(columns.get("image", [""] * count))]
    texts = columns.get("text", [""] * count)
    pairs = [Pair(image, text or None) for image, text in zip(images, texts, strict=True)]
    check_pairs(pairs, limits)
    return pairs


def _strings(tensor: Tensor, field: str) -> list[str]:
    """The strings of a tensor, in a flat list."""
    values = tensor.data
    while values and all(isinstance(value, list) for value in values):
        values = [item for value in values for item in value]
    if not all(isinstance(value, str) for value in values):
        raise malformed("has to be strings", f"{field}.data")
    if math.prod(tensor.shape) != len(values):
        raise malformed(f"does not fit {len(values):,} strings", f"{field}.shape")
    return values


def _image(data: str, row: int) -> bytes | None:
    try:
        return decoded(data) if data else None
    except ValueError as error:
        raise malformed(str(error), f"image.{row}") from None


def _wanted(sent: InferRequest, names: Sequence[str]) -> Sequence[str]:
    """The names of the outputs that the request wants."""
    wanted = [output.name for output in sent.outputs or ()] or names
    if len(set(wanted)) < len(wanted):
        raise malformed("an output is named twice", "outputs")
    for number, name in enumerate(wanted):
        if name not in names:
            raise malformed("no such output", f"outputs.{number}.name")
    return wanted


def answer_tensors(tasks: Sequence[Task], rows: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """The output tensors by name. A pair without picture and words has '' and 0."""
    tensors: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str, data: list) -> None:
        tensors[name] = {"name": name, "datatype": kind, "shape": [len(rows)], "data": data}

    for task in tasks:
        answers = [row[task.name] for row in rows]
        add(task.name, "BYTES", [_label(answer) for answer in answers])
        for field, kind, nothing in (("probability", "FP32", 0.0), ("accepted", "BOOL", False)):
            values = [getattr(answer, field) for answer in answers]
            data = [_joined(value) if task.many else value or nothing for value in values]
            add(f"{task.name}_{field}", "BYTES" if task.many else kind, data)
        add(f"{task.name}_image_weight", "FP32", [answer.weights["image"] for answer in answers])
    add(NOTE, "BYTES", [next(iter(row.values())).note for row in rows])
    return tensors


def _label(answer: Answer) -> str:
    return _joined(answer.label) if isinstance(answer.label, tuple) else answer.label or ""


def _joined(values: tuple | None) -> str:
    """The members of a many-label answer in one string."""
    return SEPARATOR.join(
        str(value).lower() if isinstance(value, bool) else str(value) for value in values or ()
    )
