"""Every config of configs/ at the true widths of published CLIPs."""

from pathlib import Path

import jax
import pytest

from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.models import Classification, image_encoder, text_encoder
from cmaclip_jax.runs.objectives import build_objective
from cmaclip_jax.runs.towers import Towers, with_sizes
from cmaclip_jax.tasks import Task

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "landmarks")
TASKS = (Task("colour", ("red", "green")),)


def objective_of(name: str, towers: Towers, *overrides: str):
    config = read_config([f"--config={FOLDER / name}.py", *overrides])
    fields = with_sizes(config, towers, 32).data
    tokenizer = train_tokenizer(["a red mug"], 300)
    encode = BatchEncoder(TASKS, tokenizer, fields.image_size, fields.text_length)
    return build_objective(config, encode, towers), encode


@pytest.mark.parametrize("size", ["B/32", "L/14", "H/14"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_begins_with_a_published_clip(name, size):
    towers = Towers(image_encoder(size), text_encoder(size))
    objective, encode = objective_of(name, towers, "--config.model.pretrained=CLIP")
    shapes = jax.eval_shape(objective.init, jax.random.key(0), encode.empty(1))
    assert shapes["image"]["patch_embedding"]["kernel"].shape[-1] == towers.image.width
    if isinstance(objective, Classification):
        kernel = shapes["sequence"]["last"]["attention"]["qkv"]["kernel"]  # [D,3,N,H]
        assert kernel.shape[-1] == 64


@pytest.mark.parametrize(
    ("name", "heads"), [("quickstart", 4), ("grounding", 4), ("attributes", 3)]
)
def test_from_scratch_the_heads_are_as_wide_as_the_encoders(name, heads):
    config = read_config([f"--config={FOLDER / name}.py"])
    towers = Towers(image_encoder(config.model.image), text_encoder(config.model.text))
    objective, _ = objective_of(name, towers)
    assert objective.model.sequence.heads == heads == towers.text.heads
