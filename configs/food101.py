"""UPMC Food-101: a photo of a dish, the title of its web page, 101 classes.

    python -m cmaclip_jax.main --config=configs/food101.py --config.data.path=FOLDER

FOLDER holds the data set in any of its four public layouts (data/sources/food101_layouts.py).
Made for one host with four or eight accelerators of 16 GB or more; with a single one, add
--config.train.accumulate=4. So that input keeps up, write record files of small pictures first:

    cmaclip prepare --config=configs/food101.py --config.data.path=FOLDER --output=DIR --shards=64
    python -m cmaclip_jax.main --config=configs/food101.py --config.data.source=tfds \\
        --config.data.path=DIR

Published test accuracies: CMA-CLIP 93.1 % (its encoders' size and recipe are not known to us),
UniS-MMC 94.7 %, MMBT 92.1 %. This recipe is ours. It has not been run on the real data set, so its
time and its score are unknown; the tests run it on small files in every layout.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "food101"
    config.data.text_length = -1  # titles are short: about a third of CLIP's 77 tokens
    config.data.augment.crop = 0.5
    config.data.augment.flip = True
    config.data.augment.word_drop = 0.1

    config.model.pretrained = "openai/clip-vit-base-patch32"
    config.model.dropout = 0.1

    config.train.steps = 4_000  # about 15 epochs
    config.train.batch_size = 256
    config.train.learning_rate = 2e-4  # for the new parts
    config.train.rates = (("(image|text)/.*", 0.05), (".*", 1.0))  # 1e-5 for CLIP's encoders
    config.train.label_smoothing = 0.1
    config.train.ema = 0.999
    config.eval.every = 500
    config.checkpoint.every = 500
    return config
