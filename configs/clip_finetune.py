"""CLIP fine-tuned on your pictures and their words, by its own contrastive loss.

    python -m cmaclip_jax.main --config=configs/clip_finetune.py --config.model.pretrained=CLIP

A baseline for CMA-CLIP. (The paper does not say how it fine-tuned CLIP.) The model learns which
words belong to which picture; the other pairs of the batch, over all devices, are the wrong
answers. It is evaluated as CLIP is: every class is a sentence, and the nearest sentence wins.

Without `model.pretrained` a small CLIP learns from scratch on drawn pictures, in about five minutes
on one CPU core. Its accuracy of category, which the titles name, is 1.000. From pictures alone it
is .495, because the title means one of two articles. It can only guess what no title says.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "shop"
    config.model.image = "tiny/12"  # from scratch; pretrained weights have their own size
    config.model.text = "tiny/12"

    config.train.objective = "contrastive"  # 'sigmoid' scores every pair on its own
    config.train.steps = 2_000
    config.train.batch_size = 128  # a larger batch has more wrong answers to tell apart
    config.train.learning_rate = 1e-3  # 1e-5 suits pretrained weights
    config.train.weight_decay = ((".*/(kernel|embedding)", 0.1), (".*", 0.0))
    config.eval.prompts = ("a photo of a {}.",)
    config.eval.every = 500
    config.checkpoint.every = 500
    return config
