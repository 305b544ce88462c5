"""CLIP fine-tuned on your pictures and their words, by its own contrastive loss.

    python -m cmaclip_jax.main --config=configs/clip_finetune.py --config.model.pretrained=CLIP

A baseline for CMA-CLIP; how the paper fine-tuned CLIP is not known. It learns which words belong
to which picture, each batch's other pairs being the wrong answers (those of the whole batch, over
all devices). Evaluation is CLIP's own: every class is a
sentence, the nearest one wins. Without `model.pretrained` a small CLIP learns from scratch on
drawn pictures, in about five minutes on one CPU core: category (which the titles name) 1.000, and
.495 from pictures alone, where one of two articles is meant; whatever no title says stays a guess.
"""

from cmaclip_jax.config import base_config


def get_config():
    config = base_config()
    config.data.source = "shop"
    config.model.image = "tiny/12"  # of the run from scratch; pretrained weights bring their own
    config.model.text = "tiny/12"

    config.train.objective = "contrastive"  # 'sigmoid' judges every pair by itself
    config.train.steps = 2_000
    config.train.batch_size = 128  # the larger, the more wrong answers to tell apart
    config.train.learning_rate = 1e-3  # 1e-5 suits pretrained weights
    config.train.weight_decay = ((".*/(kernel|embedding)", 0.1), (".*", 0.0))
    config.eval.prompts = ("a photo of a {}.",)
    config.eval.every = 500
    config.checkpoint.every = 500
    return config
