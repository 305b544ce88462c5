"""Facial landmarks under annotation noise: which noise hurts, and which remedy helps.

    cmaclip landmarks study --config=configs/landmarks.py

Reconstructed from the abstract of arXiv:2007.15269 ("The Blessing and the Curse of the Noise behind
Facial Landmark Annotations"): its formulas, its noise model, its network and its figures are
unknown to us. Every measure, noise and remedy here is our own choice, or that of another paper
which the code names.

Nothing is downloaded: the faces are drawn, so that the truth is known exactly.
"""

from ml_collections import ConfigDict

from cmaclip_jax.landmarks.config import landmark_config


def get_config() -> ConfigDict:
    config = landmark_config()
    config.model.image = "tiny/12"  # 48 x 48 pictures in 16 patches
    config.train.steps = 600
    config.train.batch_size = 64
    config.train.learning_rate = 2e-3
    config.train.b2 = 0.99
    return config
