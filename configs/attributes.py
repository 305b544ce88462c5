"""Your own product table: a picture, a title, and a column for every attribute.

    python -m cmaclip_jax.main --config=configs/attributes.py --config.data.path=products.csv

The model learns from scratch on a CPU, from a catalogue of about ten thousand pairs.
configs/README.md has the results on a fashion catalogue. To start from CLIP's weights, add
--config.model.pretrained=CLIP --config.train.learning_rate=1e-4.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "table"
    config.data.text_length = -1  # the length that the titles need, not the 77 tokens of CLIP
    config.data.vocabulary = 1024  # a larger one learns kinds sooner, but brands and years worse
    # Seven thousand pairs are few, so every pair is changed a little each time it is read.
    config.data.augment.crop = 0.4
    config.data.augment.flip = True
    config.data.augment.word_drop = 0.2

    config.model.image = "small/16"  # 64x64 pixels, convolutions, 16 patches, 3 layers of 96
    config.model.text = "small/16"
    config.model.sequence_layers = 2
    config.model.sequence_heads = -1  # as wide as the encoders' own heads
    config.model.unroll = 4  # on a CPU, a few small layers run faster without a loop
    config.model.dropout = 0.2
    config.model.tower_dropout = 0.1

    config.train.steps = 4_000
    config.train.batch_size = 64
    config.train.learning_rate = 2e-3
    config.train.b2 = 0.99
    config.train.ema = 0.998
    config.train.label_smoothing = 0.1
    config.train.contrastive = 1.0  # from scratch, the towers learn faster with CLIP's own loss
    config.eval.every = 1_000
    config.checkpoint.every = 1_000
    return config
