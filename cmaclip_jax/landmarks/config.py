"""The fields of a landmark run and of the study, beside those that every run has."""

from ml_collections import ConfigDict

from cmaclip_jax.config import base_config


def landmark_config() -> ConfigDict:
    """The fields of `base_config` that speak of training, and `landmarks`; see there.

    `model.pretrained` gives the encoder of a CLIP; it needs no tokenizer here, and no stem.
    """
    config = base_config()
    config.eval.every = 0

    marks = config.landmarks = ConfigDict()
    # Where faces come from: 'drawn', 'folder' (pictures with .pts files), 'the300w_lp' (TFDS).
    marks.source = "drawn"
    marks.path = ""  # of 'folder'; and TFDS's data_dir, or the folder of the built data set
    marks.train = 2_000  # faces to train on
    marks.test = 400  # faces that accuracy is measured on
    marks.videos = 12  # that stability is measured on: drawn, or a camera's that films a test face
    marks.frames = 40  # of each
    marks.occluded = 0.2  # share of the drawn faces that something hides a part of
    marks.sensor = 4.0  # noise of every pixel of what is drawn or filmed, in grey levels

    # Of the annotations: '' (none), one of landmarks/corruption.py, or 'fitted' (noise_model).
    marks.noise = ""
    marks.noise_model = ""  # what `cmaclip landmarks noise` wrote; as strong as it was measured
    marks.strength = 0.05  # its root mean square, as a share of the outer eye distance
    marks.annotators = 3  # who mark faces; each face is marked by one of them

    marks.stem = ()  # widths of the encoder's first convolutions; (): as its size has them
    marks.shift = 2  # pixels by which training pictures are moved, each way
    marks.head = "heatmaps"  # 'heatmaps' | 'coordinates'
    marks.loss = "l2"  # 'l2' | 'l1' | 'wing', of the points
    marks.target = 0.08  # deviation of the maps' targets, of the eye distance; 0: no such loss
    marks.anisotropic = False  # errors along the contour count less
    marks.consistency = 0.0  # weight of saying the same of a picture that is moved a little
    marks.relabel = ""  # '' | 'averaged' (all annotators mark every face) | 'distilled'

    study = marks.study = ConfigDict()
    study.noises = ("isotropic", "contour", "bias", "annotators", "outliers", "drift")
    study.strengths = (0.1,)  # of all noises but 'fitted'
    # Of REMEDIES below: 'wing' under all noises, 'wing:none,outliers' under these. Plain training
    # is always there, under all noises and under none.
    study.remedies = ("wing", "maps", "contour", "consistency", "averaged", "distilled")
    study.more_faces = ()  # other numbers of training faces, for plain training alone
    study.seeds = 3  # how many: config.seed and the next
    return config


# What each remedy changes, and what it is.
REMEDIES: dict[str, tuple[dict, str]] = {
    "plain": ({}, "trained on the noisy points as they are"),
    "maps": ({"head": "heatmaps"}, "a map a point, its target a Gaussian; soft-argmax"),
    "wide": ({"head": "heatmaps", "target": 0.16}, "maps with targets twice as wide"),
    "l1": ({"loss": "l1"}, "absolute errors, which outliers move less"),
    "wing": ({"loss": "wing"}, "Wing loss (Feng et al., CVPR 2018)"),
    "contour": ({"anisotropic": True}, "errors along the contour count half"),
    "consistency": ({"consistency": 0.05}, "the same answer for a picture moved by some pixels"),
    "averaged": ({"relabel": "averaged"}, "every face marked by all annotators, and averaged"),
    "distilled": (
        {"relabel": "distilled"},
        "trained anew on what the plain detector says about its own training faces",
    ),
}
