"""What clients of the server get: `predict`'s answers, refusals that name the field, counters."""

import asyncio
import base64
import dataclasses
import json
import re
import shutil
import struct

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps
from support.server import opened, pair_json, png

import cmaclip_jax as cma
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import write_thresholds
from cmaclip_jax.server.limits import Limits
from cmaclip_jax.server.page import PAGE
from cmaclip_jax.serving.classifier import open_classifier
from cmaclip_jax.tasks import read_tasks

PAIRS = [
    (png(0), "a red hat"),
    (png(1, side=70), "blue mug, striped"),
    (png(2), None),
    (None, "two green bags"),
    (None, None),
    (b"no picture at all", "a red hat"),
    (png(3), "ü \N{SNOWMAN} 你好"),
    (png(4), "words " * 100),
]


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run, with thresholds."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("served") / "run")
    outcome = read_outcome(folder, "test")
    chosen = [
        calibrate(task, outcome["probabilities"][task.name], outcome["labels"][task.name], 0.2)
        for task in read_tasks(folder / "tasks.json")
    ]
    write_thresholds(
        folder / "thresholds.json", [dataclasses.replace(task, step=12) for task in chosen]
    )
    return folder


@pytest.fixture(scope="module")
def classifier(run):
    """The run on one device."""
    return open_classifier(run, jax.devices()[:1])


@pytest.fixture(scope="module")
def alone(classifier):
    """The answers of `predict` to each of PAIRS by itself, as JSON has them."""
    answers = [classifier.predict([image], [text])[0] for image, text in PAIRS]
    return [as_json(pair) for pair in answers]


def as_json(pair):
    """The answers of Python to a pair, as JSON has them."""
    tasks = {
        task: {
            name: getattr(answer, name) for name in ("label", "probability", "accepted", "weights")
        }
        for task, answer in pair.items()
    }
    return json.loads(json.dumps({"note": next(iter(pair.values())).note, "answers": tasks}))


def serve(classifier, test, **settings):
    """Runs `test(client, service)`."""

    async def inside():
        async with opened(classifier, **settings) as (client, service):
            return await test(client, service)

    return asyncio.run(inside())


def test_an_answer_is_that_of_predict_to_the_last_bit(classifier, alone):
    async def test(client, service):
        for (image, text), expected in zip(PAIRS, alone, strict=True):
            sent = await client.post("/v1/predict", json={"pairs": [pair_json(image, text)]})
            assert sent.json() == {"step": 12, "pairs": [expected]}
            parts = {"text": (None, text or "")} | ({"image": ("a", image)} if image else {})
            form = await client.post("/v1/predict", files=parts)
            assert form.json() == sent.json()

    serve(classifier, test)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, len(PAIRS) - 1), min_size=1, max_size=5), min_size=1))
def test_answers_do_not_depend_on_who_shares_the_batch(classifier, alone, requests):
    async def test(client, service):
        async def ask(numbers):
            pairs = [pair_json(*PAIRS[number]) for number in numbers]
            return await client.post("/v1/predict", json={"pairs": pairs})

        sent = await asyncio.gather(*map(ask, requests))
        for numbers, answer in zip(requests, sent, strict=True):
            for number, pair in zip(numbers, answer.json()["pairs"], strict=True):
                assert_close(pair, alone[number])

    serve(classifier, test, limits=Limits(batch=4))


def assert_close(pair, expected):
    """The same answers, up to 1e-6."""
    assert pair["note"] == expected["note"]
    for task, answer in pair["answers"].items():
        wanted = expected["answers"][task]
        assert (answer["label"], answer["accepted"]) == (wanted["label"], wanted["accepted"])
        if wanted["label"] is not None:
            np.testing.assert_allclose(answer["probability"], wanted["probability"], atol=1e-6)
        assert answer["weights"] == pytest.approx(wanted["weights"], abs=1e-6)


def test_the_open_inference_protocol_gives_the_same_answers(classifier, alone):
    images = [base64.b64encode(image).decode() if image else "" for image, _ in PAIRS]
    texts = [text or "" for _, text in PAIRS]

    def tensor(name, data, shape=None):
        return {"name": name, "datatype": "BYTES", "shape": shape or [len(data)], "data": data}

    async def test(client, service):
        about = (await client.get("/v2/models/shop")).json()
        body = {"id": "7", "inputs": [tensor("image", images), tensor("text", texts)]}
        sent = (await client.post("/v2/models/shop/infer", json=body)).json()
        assert (sent["id"], sent["model_name"], sent["model_version"]) == ("7", "shop", "12")
        got = {output["name"]: output for output in sent["outputs"]}
        described = {output["name"]: output["datatype"] for output in about["outputs"]}
        assert {name: output["datatype"] for name, output in got.items()} == described
        for row, pair in enumerate(alone):
            colour, contents = pair["answers"]["colour"], pair["answers"]["contents"]
            assert got["note"]["data"][row] == pair["note"]
            assert got["colour"]["data"][row] == (colour["label"] or "")
            assert got["colour_probability"]["data"][row] == pytest.approx(
                colour["probability"] or 0, abs=1e-6
            )
            assert got["colour_accepted"]["data"][row] == bool(colour["accepted"])
            assert got["contents"]["data"][row] == "|".join(contents["label"] or ())
        # One tensor, nested as its shape says, and one output of all.
        body = {"inputs": [tensor("text", [["a red hat"]], [1, 1])], "outputs": [{"name": "note"}]}
        sent = (await client.post("/v2/models/shop/infer", json=body)).json()
        assert sent["outputs"] == [
            {"name": "note", "datatype": "BYTES", "shape": [1], "data": ["no picture"]}
        ]
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/shop/ready"):
            assert (await client.get(path)).status_code == 200, path

    serve(classifier, test)


def test_embeddings_have_length_one_and_gaps_are_null(classifier):
    async def test(client, service):
        pairs = [pair_json(*pair) for pair in PAIRS[1:5]]
        sent = (await client.post("/v1/embed", json={"pairs": pairs})).json()["pairs"]
        lacks = [{name for name, row in pair.items() if row is None} for pair in sent]
        assert lacks == [set(), {"text"}, {"image"}, {"image", "text"}]
        for pair in sent:
            for row in filter(None, pair.values()):
                assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
        assert sent[0]["image"] != sent[1]["image"]

    serve(classifier, test)


def test_a_pair_is_explained(classifier, alone):
    async def test(client, service):
        image, text = PAIRS[1]
        sent = await client.post(
            "/v1/explain", files={"image": ("a.png", image), "text": (None, f"{text}<script>")}
        )
        assert sent.status_code == 200
        assert alone[1]["answers"]["colour"]["label"] in sent.text
        assert "&lt;script&gt;" in sent.text
        assert "<script" not in sent.text
        assert "data:image/jpeg;base64," in sent.text
        two = await client.post("/v1/explain", json={"pairs": [{"text": "a"}, {"text": "b"}]})
        assert two.status_code == 422

    serve(classifier, test)


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


def test_counters_tell_what_happened(classifier):
    async def test(client, service):
        await client.post("/v1/predict", json={"pairs": [{"text": "a"}, {"text": "b"}]})
        await client.post("/v1/predict", json={"pairs": []})
        await client.get("/nowhere")
        text = (await client.get("/metrics")).text
        for line in (
            'cmaclip_requests_total{route="/v1/predict",status="200"} 1.0',
            'cmaclip_requests_total{route="/v1/predict",status="422"} 1.0',
            'cmaclip_requests_total{route="other",status="404"} 1.0',
            'cmaclip_refusals_total{reason="malformed"} 2.0',
            "cmaclip_pairs_total 2.0",
            "cmaclip_batch_pairs_sum 2.0",
            "cmaclip_pending_pairs 0.0",
            "cmaclip_step 12.0",
            'cmaclip_request_seconds_count{route="/v1/predict"} 2.0',
        ):
            assert line in text.splitlines(), line

    serve(classifier, test)


def test_the_newest_checkpoint_takes_over(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "thresholds.json").unlink()
    newest = folder / "checkpoints/12"
    newest.rename(tmp_path / "12")
    classifier = open_classifier(folder, jax.devices()[:1])
    old = classifier.trained.step
    pair = {"pairs": [pair_json(*PAIRS[0])]}

    async def test(client, service):
        first = (await client.post("/v1/predict", json=pair)).json()
        (tmp_path / "12").rename(newest)
        waiting = asyncio.create_task(client.post("/v1/predict", json=pair))
        assert "step 12 answers" in await service.load_newest()
        second = (await client.post("/v1/predict", json=pair)).json()
        assert (await waiting).json()["step"] in (old, 12)
        assert (first["step"], second["step"]) == (old, 12)
        assert second["pairs"] == [
            as_json(cma.load(folder).predict([PAIRS[0][0]], [PAIRS[0][1]])[0])
        ]
        shutil.copy(run / "thresholds.json", folder)
        write = (folder / "thresholds.json").read_text().replace('"step": 12', '"step": 11')
        (folder / "thresholds.json").write_text(write)
        assert "step 12 goes on answering" in await service.load_newest()
        assert (await client.post("/v1/predict", json=pair)).json() == second

    serve(classifier, test)
    assert old < 12


def test_pages_need_no_network(classifier):
    async def test(client, service):
        page = await client.get("/")
        assert "script-src 'sha256-" in page.headers["content-security-policy"]
        docs = (await client.get("/docs")).text
        for text in (page.text, docs):
            assert not re.search(r'(src|href)="(https?:)?//', text)
        for file in re.findall(r'(?:src|href)="\.(/docs-files/[^"]+)"', docs):
            assert (await client.get(file)).status_code == 200, file
        described = (await client.get("/openapi.json")).json()
        assert {"/v1/predict", "/v2/models/{name}/infer"} <= set(described["paths"])
        names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
        assert names <= set(described["components"]["schemas"])

    serve(classifier, test)
    assert "{" not in PAGE.split("<style>")[0]
