"""Refusals of the server: each names the field, holds no traceback, and harms no later request."""

import asyncio
import struct

import pytest
from PIL import ImageOps
from support.server import pair_json, png, serve

from cmaclip_jax.server.limits import Limits

BIG = png(9, side=120)
MISTAKES = {  # what is sent: the status, and what the message or the field says
    "no json": (dict(content=b"{pairs:", headers={"content-type": "application/json"}), 400, ""),
    "deep json": (
        dict(content=b"[" * 100_000, headers={"content-type": "application/json"}),
        400,
        "",
    ),
    "no utf-8": (
        dict(
            content=b'{"pairs": [{"text": "\xff"}]}', headers={"content-type": "application/json"}
        ),
        400,
        "",
    ),
    "half a character": (
        dict(
            content=b'{"pairs": [{"text": "\\ud800"}]}',
            headers={"content-type": "application/json"},
        ),
        400,
        "",
    ),
    "other type": (dict(content=b"a,b", headers={"content-type": "text/csv"}), 415, "json"),
    "no type": (dict(content=b"{}"), 415, "json"),
    "no pairs": (dict(json={}), 422, "pairs"),
    "empty": (dict(json={"pairs": []}), 422, "pairs"),
    "a list": (dict(json=[1]), 422, ""),
    "number as text": (dict(json={"pairs": [{"text": 1}]}), 422, "pairs.0.text"),
    "NaN": (
        dict(content=b'{"pairs": [{"text": NaN}]}', headers={"content-type": "application/json"}),
        422,
        "pairs.0.text",
    ),
    "a path": (
        dict(json={"pairs": [{"text": "a"}, {"image": "/etc/passwd"}]}),
        422,
        "pairs.1.image",
    ),
    "an address": (dict(json={"pairs": [{"image": "http://a/b.png"}]}), 422, "pairs.0.image"),
    "other name": (dict(json={"pairs": [{"url": "http://a/b.png"}]}), 422, "pairs.0.url"),
    "too many": (dict(json={"pairs": [{}] * 10_000}), 413, "too many"),
    "too large": (dict(json={"pairs": [{"text": "a" * 200_000}]}), 413, "the limit is 100,000"),
    "many elements": (dict(json={"pairs": [{}] * 30_000}), 413, "too many"),
    "a few too many": (dict(json={"pairs": [{}] * 9}), 413, "the limit is 8"),
    "a long text": (dict(json={"pairs": [{}, {"text": "a" * 2_000}]}), 413, "pairs.1.text"),
    "pixels": (dict(json={"pairs": [pair_json(BIG)]}), 413, "120 x 120"),
    "form: other name": (dict(files={"picture": ("a", BIG)}), 422, "picture"),
    "form: text as file": (dict(files={"text": ("a", b"x")}), 422, "text"),
    "form: file as text": (dict(files={"image": (None, "/etc/passwd")}), 422, "image"),
    "form: nothing": (dict(files={"text": (None, b"")}, data={}), 200, "neither"),
    "form: counts": (
        dict(files=[("image", ("a", b"x")), ("text", (None, "a")), ("text", (None, "b"))]),
        422,
        "1 files and 2 texts",
    ),
    "form: too many": (dict(files=[("text", (None, "a"))] * 9), 413, "the limit is 8"),
    "form: no boundary": (
        dict(content=b"--x", headers={"content-type": "multipart/form-data"}),
        400,
        "oundary",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_the_field(classifier, name):
    sent, status, words = MISTAKES[name]

    async def test(client, service):
        answer = await client.post("/v1/predict", **sent)
        assert answer.status_code == status, answer.text
        assert words in answer.text
        assert "Traceback" not in answer.text
        if status >= 400:
            assert set(answer.json()) <= {"error", "field"}
        good = await client.post("/v1/predict", json={"pairs": [{"text": "a red hat"}]})
        assert good.status_code == 200
        assert service.batcher.pending == 0

    limits = Limits(pairs=8, body=100_000, pixels=10_000, characters=1_000)
    serve(classifier, test, limits=limits)


TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "words"}, "inputs.0.name"),
        ({"datatype": "FP32"}, "inputs.0.datatype"),
        ({"shape": [2]}, "inputs.0.shape"),
        ({"shape": [-1, -1]}, "inputs.0.shape.0"),
        ({"shape": [9] * 1_000}, "inputs.0.shape"),
        ({"data": [1]}, "inputs.0.data"),
        ({"data": []}, "inputs.0.shape"),
        ({"name": "image", "data": ["/etc/passwd"]}, "image.0"),
    ],
)
def test_mistakes_in_tensors_name_the_field(classifier, change, field):
    async def test(client, service):
        body = {"inputs": [TENSOR | change]}
        answer = await client.post("/v2/models/shop/infer", json=body)
        assert answer.status_code in (413, 422)
        assert answer.json()["field"] == field
        other = await client.post("/v2/models/other/infer", json={"inputs": [TENSOR]})
        assert other.status_code == 404
        body = {"inputs": [TENSOR], "outputs": [{"name": "note"}] * 2}
        twice = await client.post("/v2/models/shop/infer", json=body)
        assert (twice.status_code, twice.json()["field"]) == (422, "outputs")

    serve(classifier, test)


def test_one_of_the_tokens_is_needed(classifier):
    async def test(client, service):
        good = {"authorization": "Bearer second"}
        for headers in ({}, {"authorization": "Bearer third"}, {"authorization": "second"}):
            for path in ("/v1/predict", "/metrics", "/v2/models/shop"):
                assert (await client.get(path, headers=headers)).status_code == 401
        assert (await client.get("/v2/models/shop", headers=good)).status_code == 200
        for path in ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200

    serve(classifier, test, tokens=("first", "second"))


def test_nothing_is_answered_before_the_programs_are_compiled(classifier):
    async def test(client, service):
        asked = client.post("/v1/predict", json={"pairs": [{"text": "a"}]})
        for answer in (await asked, await client.get("/v2/health/ready")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        assert (await client.get("/v2/health/live")).status_code == 200

    serve(classifier, test, ready=False)


def test_an_answer_that_is_too_late_is_refused_and_its_work_dropped(classifier):
    async def test(client, service):
        before = service.metrics.registry.get_sample_value("cmaclip_batch_pairs_count")
        answer = await client.post("/v1/predict", json={"pairs": [{"text": "a"}]})
        assert answer.status_code == 504
        await asyncio.sleep(0.4)
        after = service.metrics.registry.get_sample_value("cmaclip_batch_pairs_count")
        assert before == after == 0
        assert service.batcher.pending == 0

    serve(classifier, test, limits=Limits(deadline=0.1, wait=0.3))


def test_a_picture_that_breaks_its_reader_is_a_note(classifier, monkeypatch):
    def fail(*_, **__):
        raise struct.error("broken EXIF")

    async def test(client, service):
        pairs = [pair_json(png(0), "a red hat"), pair_json(None, "a red hat")]
        monkeypatch.setattr(ImageOps, "exif_transpose", fail)
        sent = (await client.post("/v1/predict", json={"pairs": pairs})).json()["pairs"]
        assert [pair["note"] for pair in sent] == ["unreadable picture", "no picture"]
        assert sent[0]["answers"]["colour"]["label"] == sent[1]["answers"]["colour"]["label"]

    serve(classifier, test)


def test_only_the_checked_format_is_decoded(classifier):
    ppm = b"P6 64 64 255\n" + bytes(64 * 64 * 3)  # Pillow reads it, but the server does not

    async def test(client, service):
        sent = await client.post("/v1/predict", json={"pairs": [pair_json(ppm, "a red hat")]})
        assert sent.json()["pairs"][0]["note"] == "unreadable picture"

    serve(classifier, test)


def test_an_error_of_ours_is_a_500_without_its_reason(classifier, monkeypatch, capsys):
    async def test(client, service):
        monkeypatch.setattr(service.batcher, "answer", None)
        sent = await client.post("/v1/predict", json={"pairs": [{"text": "a"}]})
        assert sent.status_code == 500
        assert "NoneType" not in sent.text
        assert set(sent.json()) == {"error"}
        assert service.batcher.pending == service.received == 0

    serve(classifier, test)
    assert "NoneType" in capsys.readouterr().err


def test_all_requests_together_hold_few_bytes(classifier):
    async def test(client, service):
        service.received = 16 * service.limits.body
        sent = await client.post("/v1/predict", json={"pairs": [{"text": "a"}]})
        assert sent.status_code == 503
        service.received = 0
        assert (await client.post("/v1/predict", json={"pairs": [{}]})).status_code == 200
        assert service.received == 0

    serve(classifier, test)
