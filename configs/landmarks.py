"""Facial landmarks under annotation noise: which noise does harm, and which remedy helps.

    cmaclip landmarks study --config=configs/landmarks.py

Reconstructed from the abstract of arXiv:2007.15269 ("The Blessing and the Curse of the Noise behind
Facial Landmark Annotations"). Its formulas, noise model, network and figures are unknown to us.
Every measure, noise and remedy is our own choice, or from another paper that the code names.

Nothing is downloaded: the faces are drawn, so the true points are known exactly. Plain training
minimises the squared error of the coordinates. With 200 faces, noise with a mean of zero does not
average out completely. Plain training is repeated with 2,000 faces, to see whether it does there.

29 arms with 3 seeds; cmaclip_jax/landmarks/README.md has the results. Your own faces:
--config.landmarks.source=folder --config.landmarks.path=FOLDER (pictures with .pts files), or
--config.landmarks.source=the300w_lp with TFDS's data_dir.
"""

from ml_collections import ConfigDict

from cmaclip_jax.landmarks.config import landmark_config


def get_config() -> ConfigDict:
    config = landmark_config()
    config.model.image = "tiny/12"  # 48 x 48 pictures in 16 patches
    config.train.steps = 500
    config.train.batch_size = 16
    config.train.learning_rate = 4e-3
    config.train.b2 = 0.99

    marks = config.landmarks
    marks.train = 200
    marks.stem = (
        12,
        24,
    )  # convolutions see neighbouring pixels; a small encoder learns that slowly
    marks.head = "coordinates"

    study = marks.study
    study.strengths = (0.2,)
    study.more_faces = (2_000,)
    study.remedies = (
        "wing:none,isotropic,outliers",
        "contour:contour",
        "maps:none,isotropic,outliers",
        "consistency:none,isotropic",
        "averaged:isotropic,bias,annotators,outliers",
        "distilled:isotropic,outliers",
    )
    return config
