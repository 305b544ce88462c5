"""The arithmetic of a step, counted by hand, against XLA's count of the program itself."""

import jax
import pytest
from support.small import initial, make_model

from cmaclip_jax.config import base_config
from cmaclip_jax.models import CLIP, image_encoder, text_encoder
from cmaclip_jax.models.flops import count
from cmaclip_jax.planning.run import plan_run, unrolled_flops
from cmaclip_jax.tasks import Task

TASKS = (Task("dish", tuple(map(str, range(101)))), Task("course", ("starter", "main", "sweet")))


def counts(**fields):
    """Our count and XLA's of a step of a config with these fields."""
    config = base_config()
    config.train.batch_size = config.eval.batch_size = (
        64  # the update itself costs the same for any
    )
    config.data.vocabulary = 49_408
    config.update_from_flattened_dict(fields)
    run = plan_run(config, TASKS, jax.devices()[:1])
    return run.arithmetic(), unrolled_flops(config, TASKS)


@pytest.mark.parametrize("size", ["B/32", "B/16", "L/14", "H/14"])
def test_a_step_at_real_shapes_is_within_five_percent(size):
    ours, counted = counts(**{"model.image": size, "model.text": size, "data.text_length": 32})
    assert sum(ours.values()) == pytest.approx(counted, rel=0.05)
    assert sum(ours.values()) == pytest.approx(counted, rel=0.01)  # what it is in fact


@pytest.mark.parametrize(
    "fields",
    [
        {"model.inputs": "image"},
        {"model.inputs": "text"},
        {"model.sequence_layers": 0, "model.modality": "concat"},
        {"model.modality": "gated"},
        {"model.sequence_layers": 4, "model.sequence_width": 256},
        {"train.contrastive": 1.0},
        {"train.freeze": ("image/.*",)},
        {"train.freeze": ("(image|text)/.*",)},
        {"model.lora.rank": 8, "model.lora.dropout": 0.0},
        {
            "model.lora.rank": 8,
            "model.lora.dropout": 0.0,
            "model.lora.rules": (".*/(out|mlp_up|mlp_down)",),
        },
        {"train.accumulate": 4},
        {"train.objective": "contrastive"},
        {"model.image": "SigLIP-B/32", "model.text": "SigLIP-B/32"},
    ],
    ids=str,
)
def test_every_kind_of_run_is_counted(fields):
    ours, counted = counts(**fields)
    assert sum(ours.values()) == pytest.approx(counted, rel=0.02)


def test_recomputing_is_in_xlas_count_alone():
    plain, full = counts(), counts(**{"model.remat": "full"})
    assert plain[0] == full[0]
    # Of a layer's twelve squares of its width, the four of its last product are needed by nobody.
    assert full[1] - plain[1] == pytest.approx(sum(full[0].values()) / 3 * 8 / 12, rel=0.02)


def test_convolutions_count():
    model = CLIP(image_encoder("small/16"), text_encoder("small/16"))
    by_hand = 0
    for side, before, width in ((32, 3, 24), (16, 24, 48), (8, 48, 96)):
        by_hand += 2 * side * side * 9 * before * width
    bare = CLIP(image_encoder("small/16", stem=()), text_encoder("small/16"))
    embed = {x: 16 * 2 * patch * 96 for x, patch in (("stem", 2 * 2 * 96), ("bare", 16 * 16 * 3))}
    with_stem, without = (count(x, 24)["image"].forward for x in (model, bare))
    assert with_stem - embed["stem"] - by_hand == without - embed["bare"]


def test_parts_are_called_as_their_parameters():
    params = initial(make_model())
    parts = count(make_model(), 12)
    assert {"image", "text", "sequence"} == parts.keys() & params.keys()
    assert all(part.forward > 0 for part in parts.values())
