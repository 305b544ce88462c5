"""Frozen encoders run once: the same run as without the cache, from less work."""

import jax
import numpy as np
import pytest
from support.small import apply, initial, make_batch, make_model

from cmaclip_jax.runs.frozen_features import Features
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.training.saved_parameters import read_parameters

FROZEN = ("image/.*", "text/.*")


@pytest.fixture
def config(config):
    """One task: every head takes time to compile."""
    config.data.labels = ("colour",)
    return config


@pytest.mark.parametrize("inputs", ["both", "image", "text"])
def test_kept_sequences_stand_in_for_the_encoders(inputs):
    model = make_model(image=inputs != "text", text=inputs != "image")
    params, batch = initial(model), make_batch()
    expected, aux = apply(model, params, batch)
    kept = {name: value for name, value in batch.items() if name != "image"}
    for name, source in (("image", "image"), ("text", "tokens")):
        if name in params:
            tower = getattr(model, name)
            kept[f"{name}_tokens"] = jax.jit(tower.apply)({"params": params[name]}, batch[source])[
                0
            ]
    answers, kept_aux = apply(model, params, kept)
    for task in expected:
        np.testing.assert_allclose(answers[task], expected[task], atol=1e-5)
    for pooled in ("image_pooled", "text_pooled"):
        if aux[pooled] is not None:
            np.testing.assert_allclose(kept_aux[pooled], aux[pooled], atol=1e-5)


def test_a_run_from_the_cache_equals_one_without(config, tmp_path, monkeypatch, capsys):
    config.train.freeze = FROZEN
    config.train.ema = 0.9
    config.train.epsilon = 1e-3  # Adam's default makes full steps of gradients that are rounding
    config.mesh.data = 8
    figures = train_and_evaluate(config, tmp_path / "cached")
    assert "each pair goes through them once" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "cached/features").iterdir()) == [
        "test",
        "train",
        "val",
    ]
    monkeypatch.setattr(
        "cmaclip_jax.runs.frozen_features._why_not_kept", lambda data: "this test wants it so"
    )
    expected = train_and_evaluate(config, tmp_path / "plain")
    assert "yet run at every step: this test wants it so" in capsys.readouterr().err
    assert not (tmp_path / "plain/features").exists()
    (_, cached), (_, plain) = (read_parameters(tmp_path / name) for name in ("cached", "plain"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), cached, plain)
    for name, task in expected["tasks"].items():
        assert figures["tasks"][name]["accuracy"] == pytest.approx(task["accuracy"], abs=0.06)
        for modality, weight in task["modality_weights"].items():
            kept = figures["tasks"][name]["modality_weights"][modality]
            assert kept == pytest.approx(weight, abs=2e-3)


@pytest.mark.slow
def test_an_interrupted_encoding_is_made_again_and_a_whole_one_is_read(
    config, tmp_path, monkeypatch
):
    config.train.freeze = FROZEN
    encoded = []
    encode = Features._encode
    monkeypatch.setattr(
        Features,
        "_encode",
        lambda self, split, *rest: (encoded.append(split), encode(self, split, *rest)),
    )
    config.eval.every = 0
    train_and_evaluate(config, tmp_path)
    assert encoded == ["train", "test"]
    (tmp_path / "features/test/whole.json").unlink()
    train_and_evaluate(config, tmp_path)
    assert encoded == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.augment.flip": True}, "data.augment shows every pair differently"),
        (
            {"data.noise.train": True, "data.noise.text": "drop"},
            "data.noise changes what the encoders see",
        ),
        ({"data.noise.text": "blank"}, "data.noise changes what the encoders see"),
        ({"model.tower_dropout": 0.9}, "model.tower_dropout drops something else each time"),
        ({"train.freeze": ("image/.*",)}, None),
    ],
)
def test_what_changes_from_epoch_to_epoch_is_not_kept(config, tmp_path, capsys, change, says):
    config.train.freeze = FROZEN
    config.model.sequence_layers = 0  # compiles sooner
    config.train.steps = 1
    config.eval.every = 0
    config.update_from_flattened_dict(change)
    train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "features").exists()
    told = capsys.readouterr().err
    assert (says in told) if says else ("frozen, yet" not in told)
