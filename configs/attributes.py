"""Your own product table: a picture, a title, and a column for every attribute.

python -m cmaclip_jax.main --config=configs/attributes.py --config.data.path=pairs.csv
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "table"
    config.data.text_length = -1  # what the titles need, not the 77 tokens of CLIP
    config.data.augment.crop = 0.6
    config.data.augment.flip = True
    config.data.augment.word_drop = 0.1

    config.model.image = "small/12"
    config.model.text = "small/12"
    config.model.sequence_layers = 2
    config.model.sequence_heads = 4
    config.model.unroll = 4
    config.model.dropout = 0.1

    config.train.steps = 2_400
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.b2 = 0.99
    config.train.contrastive = 0.5
    config.train.label_smoothing = 0.1
    config.eval.every = 600
    config.checkpoint.every = 600
    return config
