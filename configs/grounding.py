"""Do I need sequence-wise attention? Four articles in a picture; the title names one of them.

    python -m cmaclip_jax.main --config=configs/grounding.py

Late fusion must put four articles with their colours and patterns into one vector before it
knows which one the title names. With sequence-wise attention, the title selects the article.
The baseline for the comparison has as many parameters (wider, deeper heads) and trains as
long (more, cheaper steps):

    python -m cmaclip_jax.main --config=configs/grounding.py --workdir=runs/grounding_late \\
        --config.model.sequence_layers=0 --config.model.head_layers=2 \\
        --config.model.head_width=112 --config.train.steps=24_000

configs/README.md has the results of both.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "shop"
    config.data.text_length = 16
    config.data.shop.articles = 4  # in two rows of two; a guess is right once in four times

    config.model.image = "tiny/12"
    config.model.text = "tiny/12"
    config.model.sequence_layers = 2
    config.model.sequence_heads = -1  # as wide as the encoders' own heads
    config.model.unroll = 2

    config.train.steps = 9_600
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.b2 = 0.99
    config.train.contrastive = 1.0
    config.eval.every = 2_400
    config.checkpoint.every = 2_400
    return config
