"""What clients of the server get: `predict`'s answers, refusals that name the field, counters."""

import asyncio
import base64
import json
import re
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.server import PAIRS, as_json, pair_json, serve

import cmaclip_jax as cma
from cmaclip_jax.server.limits import Limits
from cmaclip_jax.server.page import PAGE
from cmaclip_jax.serving.classifier import open_classifier


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
