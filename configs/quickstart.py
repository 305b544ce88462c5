"""A first run: CMA-CLIP learns six questions about drawn pictures and their titles.

    python -m cmaclip_jax.main --config=configs/quickstart.py

Nothing is downloaded. Training takes about four minutes on two CPU cores. Expect an accuracy of .97
or more on every one-label task of the test split (three seeds; README.md has the table).
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "shop"  # the procedural catalogue, see data/sources/shop.py
    config.data.text_length = 16  # its longest title has 12 tokens with this vocabulary

    config.model.image = "tiny/12"  # 48x48 pictures in 16 patches, 2 layers of width 64
    config.model.text = "tiny/12"
    config.model.sequence_layers = 2
    config.model.sequence_heads = -1  # as wide as the encoders' own heads
    config.model.unroll = 2  # on a CPU, two small layers run faster without a loop

    config.train.steps = 4_800
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.b2 = 0.99
    # From scratch, the towers must learn shapes and words first. CLIP's contrastive loss, added to
    # those of the tasks, shortens this to a fraction of the time.
    config.train.contrastive = 1.0
    config.eval.every = 800
    config.checkpoint.every = 800
    return config
