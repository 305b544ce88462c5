"""The config fields of landmark runs and of the study."""

from ml_collections import ConfigDict

from cmaclip_jax.config import base_config


def landmark_config() -> ConfigDict:
    """The fields of `base_config`, whose training fields apply here, and `landmarks`.

    `model.pretrained` gives the image encoder of a CLIP; it needs no tokenizer, and stem=().
    """
    config = base_config()
    config.eval.every = 0

    marks = config.landmarks = ConfigDict()
    # Where the faces come from: 'drawn', 'folder' (pictures with .pts files), 'the300w_lp' (TFDS).
    marks.source = "drawn"
    marks.path = ""  # of 'folder'; or TFDS's data_dir, or the folder of the built data set
    marks.train = 2_000  # number of training faces
    marks.test = 400  # number of faces to measure accuracy on
    marks.videos = 12  # to measure stability on: drawn, or a filmed test face
    marks.frames = 40  # of each
    marks.occluded = 0.2  # share of the drawn faces that are partly hidden
    marks.sensor = 4.0  # noise of every drawn or filmed pixel, in grey levels

    # Noise of the annotations: '' (none), a kind in landmarks/corruption.py, or 'fitted'.
    marks.noise = ""
    marks.noise_model = ""  # of 'fitted': a file that `cmaclip landmarks noise` wrote
    marks.strength = 0.05  # root mean square of the noise, in outer eye distances
    marks.annotators = 3  # how many; each face is annotated by one of them

    marks.stem = ()  # widths of the encoder's first convolutions; (): those of its size
    marks.shift = 2  # largest random shift of a training picture, in pixels
    marks.head = "heatmaps"  # 'heatmaps' | 'coordinates'
    marks.loss = "l2"  # 'l2' | 'l1' | 'wing', of the points
    marks.target = 0.08  # deviation of the target maps, in eye distances; 0: no map loss
    marks.anisotropic = False  # errors along the contour count less
    marks.consistency = 0.0  # weight of equal answers for a shifted picture
    marks.relabel = ""  # '' | 'averaged' (all annotators mark every face) | 'distilled'

    marks.study = _study_config()
    return config


def _study_config() -> ConfigDict:
    """What the study compares."""
    study = ConfigDict()
    study.noises = ("isotropic", "contour", "bias", "annotators", "outliers", "drift")
    study.strengths = (0.1,)  # of all noises except 'fitted'
    # Keys of REMEDIES: 'wing' under all noises, 'wing:none,outliers' under these two. Plain
    # training always runs, under all noises and without noise.
    study.remedies = ("wing", "maps", "contour", "consistency", "averaged", "distilled")
    study.more_faces = ()  # other numbers of training faces, for plain training only
    study.seeds = 3  # how many: config.seed and the next
    return study


# The fields that each remedy changes, and its description.
REMEDIES: dict[str, tuple[dict, str]] = {
    "plain": ({}, "trained on the noisy points as they are"),
    "maps": ({"head": "heatmaps"}, "a map per point with a Gaussian target; soft-argmax"),
    "wide": ({"head": "heatmaps", "target": 0.16}, "maps with targets twice as wide"),
    "l1": ({"loss": "l1"}, "absolute errors, which are less sensitive to outliers"),
    "wing": ({"loss": "wing"}, "Wing loss (Feng et al., CVPR 2018)"),
    "contour": ({"anisotropic": True}, "errors along the contour count half"),
    "consistency": ({"consistency": 0.05}, "the same answer for a picture shifted by some pixels"),
    "averaged": ({"relabel": "averaged"}, "the mean over all annotators of every face"),
    "distilled": (
        {"relabel": "distilled"},
        "trained again on the plain detector's answers for its own training faces",
    ),
}
