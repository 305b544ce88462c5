"""A small CLIP of your own: both encoders from scratch, on pairs that need no labels.

    python -m cmaclip_jax.main --config=configs/pretrain.py --config.data.path=products.csv
    python -m cmaclip_jax.main --config=configs/attributes.py --config.data.path=labelled.csv \\
        --config.model.pretrained=runs/pretrain

The encoders learn which text belongs to which picture, by CLIP's loss or, with
--config.train.objective=sigmoid, by SigLIP's. `cmaclip convert`, `cma.load_clip` and zero-shot
evaluation read the run, too.

Without a task there is no accuracy. Every 500 steps the run is judged by retrieval instead: how
often the text of a picture, and the picture of a text, is among the 1, 5 or 10 most similar of up
to 1,000 pairs. The best checkpoint is the one with the highest mean of these recalls.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "table"
    config.data.labels = ("none",)  # columns of labels are not read
    config.data.text_length = -1
    config.data.vocabulary = 2048
    config.data.augment.crop = 0.5
    config.data.augment.flip = True
    config.data.augment.word_drop = 0.2

    config.model.image = "small/16"  # the encoders of configs/attributes.py
    config.model.text = "small/16"
    config.model.unroll = 4
    config.model.tower_dropout = 0.1

    config.train.objective = "contrastive"
    config.train.steps = 5_000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-3
    config.train.b2 = 0.99
    config.train.ema = 0.998
    config.eval.every = 500
    config.checkpoint.every = 500
    return config
