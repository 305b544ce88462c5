"""Detectors of landmarks: their losses, their judge, and the faces that they learn from."""

import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from flax.traverse_util import flatten_dict
from PIL import Image
from support.landmarks import pts
from tensorflow_datasets.core.registered import skip_registration

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import annotating, objective, sources
from cmaclip_jax.landmarks.config import landmark_config
from cmaclip_jax.landmarks.detector import centres
from cmaclip_jax.landmarks.detector_scores import VIEWS, score_detector
from cmaclip_jax.landmarks.face_generator import FaceGenerator
from cmaclip_jax.landmarks.layouts import IBUG_68
from cmaclip_jax.landmarks.metrics import face_sizes, typical_size
from cmaclip_jax.landmarks.objective import Landmarks
from cmaclip_jax.landmarks.pictures import (
    AnnotatedFaces,
    batch_of,
    cut_out,
    drawn_faces,
    drawn_videos,
)
from cmaclip_jax.landmarks.training import answers, open_encoder, train_detector
from cmaclip_jax.runs.pretrained import read_clip
from cmaclip_jax.weights.reader import read_weights

WIDTH, CURVE = objective.WING_WIDTH, objective.WING_CURVE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ((0.0, 0.0), 0.0),
        ((0.06, 0.0), 0.15 * math.log(3)),
        ((-0.06, 0.03), 0.15 * math.log(3) + 0.15 * math.log(2)),
        ((0.5, 0.0), 0.5 - (0.15 - 0.15 * math.log(6))),
    ],
)
def test_wing_is_the_published_formula(error, expected):
    assert (WIDTH, CURVE) == (0.15, 0.03)
    assert float(objective.wing(jnp.array(error))) == pytest.approx(expected, rel=1e-5)


def test_wing_is_smooth_to_the_eye_where_it_turns_linear():
    below, above = (float(objective.wing(jnp.array([WIDTH + x, 0]))) for x in (-1e-5, 1e-5))
    assert above - below == pytest.approx(2e-5, rel=0.2)
    assert float(objective.l1(jnp.array([3.0, -4.0]))) == 7
    assert float(objective.l2(jnp.array([3.0, -4.0]))) == 12.5


def test_errors_along_the_contour_count_half_and_those_across_it_whole():
    points = np.random.default_rng(0).uniform(size=(1, 68, 2))
    points[0, :17] = np.stack([np.arange(17), 2 * np.arange(17)], -1) / 40  # the jaw, a line
    along, across = np.array([1, 2]) / 5**0.5, np.array([-2, 1]) / 5**0.5
    for direction, share in ((along, objective.LOOSE), (across, 1.0)):
        error = jnp.broadcast_to(0.3 * direction, points.shape)
        found = objective.loosened(error, jnp.asarray(points), IBUG_68)[0, :17]
        np.testing.assert_allclose(found, np.tile(share * 0.3 * direction, (17, 1)), atol=1e-6)


def gaussian_map(point, width, side):
    """A map over the picture, made pixel by pixel."""
    place = (np.arange(side) + 0.5) / side
    squares = (place - point[0]) ** 2 + (place[:, None] - point[1]) ** 2
    found = np.exp(-squares / (2 * width**2))
    return found / found.sum()


def test_the_map_loss_is_the_cross_entropy_of_two_maps():
    rng = np.random.default_rng(0)
    points = np.array([[[0.4, 0.55], [0.93, 0.1], [3.0, -2.0]]])
    logits = rng.normal(size=(1, 3, 16, 16))
    logarithms = np.asarray(jax.nn.log_softmax(logits.reshape(1, 3, -1)).reshape(logits.shape))
    found = objective.map_losses(jnp.asarray(logarithms), jnp.asarray(points), jnp.array([0.08]))
    for number in (0, 1):
        target = gaussian_map(points[0, number], 0.08, 16)
        by_hand = -(target * logarithms[0, number]).sum()
        assert float(found[0, number]) == pytest.approx(by_hand, rel=1e-5)
    assert float(found[0, 2]) == 0  # far off the picture


def test_the_centre_of_a_map_lies_between_its_pixels():
    points = np.array([[0.5, 0.5], [0.413, 0.377], [0.62, 0.45]])
    maps = np.stack([gaussian_map(point, 0.06, 32) for point in points])
    np.testing.assert_allclose(centres(jnp.asarray(maps)), points, atol=1e-5)
    two = np.zeros((8, 8))
    two[2, 5], two[2, 6] = 0.25, 0.75  # rows are y
    np.testing.assert_allclose(centres(jnp.asarray(two)), [6.25 / 8, 2.5 / 8], atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Centroid:
    """A stand-in that finds the middle of what is bright, or says always the same."""

    follows: bool = True

    def apply(self, variables, image, train=False):
        maps = image[..., 0] / jnp.sum(image[..., 0] * 1.0, axis=(1, 2), keepdims=True)
        points = centres(maps) if self.follows else jnp.full((len(image), 2), 0.5)
        return jnp.repeat(points[:, None], 68, axis=1), {"maps": None}


def bright_spots(count=6, size=32):
    """Pictures with one bright square each, far from the edge, and all points in its middle."""
    rng = np.random.default_rng(1)
    images, points = np.zeros((count, size, size, 3), np.uint8), np.zeros((count, 68, 2))
    for number in range(count):
        x, y = rng.integers(10, 20, 2)
        images[number, y : y + 3, x : x + 3] = 200
        points[number] = (x + 1.5) / size, (y + 1.5) / size
    return images, points


def losses_of(model, **fields):
    images, points = bright_spots()
    batch = batch_of(images, points, np.full(len(images), 0.4))
    _, sums = Landmarks(model, IBUG_68, **fields).loss({}, batch, jax.random.key(3))
    return {name: float(total / count) for name, (total, count) in sums.items()}


def test_who_follows_the_picture_pays_nothing_for_consistency_or_for_moved_pictures():
    for shift in (0, 3):
        found = losses_of(Centroid(), consistency=1.0, shift=shift)
        assert found["loss/consistency"] == pytest.approx(0, abs=1e-5)
        assert found["loss/points"] == pytest.approx(0, abs=1e-9)
    assert losses_of(Centroid(follows=False), consistency=1.0)["loss/consistency"] > 0.05
    assert "loss/consistency" not in losses_of(Centroid())


def test_unknown_points_teach_nothing():
    images, points = bright_spots()
    objective = Landmarks(Centroid(follows=False), IBUG_68)
    batch = batch_of(images, points, np.full(len(images), 0.4))
    half = points.copy()
    half[:, ::2] = np.nan
    whole, _ = objective.loss({}, batch, jax.random.key(0))
    known, _ = objective.loss({}, batch | {"points": half.astype(np.float32)}, jax.random.key(0))
    assert float(known) == pytest.approx(float(whole), rel=1e-5)


def test_the_judge_charges_still_jitter_to_who_does_not_follow_the_picture():
    rng = np.random.default_rng(0)
    images, _ = bright_spots()
    face = rng.uniform(0.2, 0.8, (68, 2))
    shape = face - face.mean(0)
    follower = Centroid()

    def follows(pictures):
        return np.asarray(follower.apply({}, jnp.asarray(pictures))[0]) + shape

    truth = follows(images)
    video = AnnotatedFaces(np.repeat(images[:1], 5, axis=0), np.repeat(truth[:1], 5, axis=0))
    found = score_detector(follows, AnnotatedFaces(images, truth), [video])
    for name, value in dataclasses.asdict(found).items():
        assert value == pytest.approx(0, abs=1e-5), name
    found = score_detector(
        lambda pictures: np.repeat(face[None], len(pictures), axis=0),
        AnnotatedFaces(images, truth),
        [video],
    )
    shifts = np.random.default_rng(0).integers(-2, 3, (VIEWS, 2)) / images.shape[1]
    size = typical_size(face[None], IBUG_68)
    spread = np.sqrt(((shifts - shifts.mean(0)) ** 2).sum(-1).mean())
    assert found.still_jitter == pytest.approx(spread / size, rel=0.5)
    assert (found.motion_error, found.midpoint_jitter) == (0, 0)


def test_averaging_takes_the_noise_out_and_leaves_the_bias():
    truth = drawn_faces(FaceGenerator(0, 32), 0, 40).points

    def error(points):
        away = points - truth
        return float(np.sqrt((away**2).sum(-1).mean(-1)).mean())

    for kind, factor in (("isotropic", 5**-0.5), ("bias", 1.0)):
        marks = annotating.marks(truth, kind, 0.1, 5, 0, IBUG_68)
        assert marks.shape == (5, *truth.shape)
        alone, mean = annotating.one_each(marks, 0), annotating.averaged(marks)
        assert error(mean) == pytest.approx(factor * error(alone), rel=0.05)
    offsets = annotating.marks(truth, "annotators", 0.1, 5, 0, IBUG_68) - truth
    offsets /= face_sizes(truth, IBUG_68)[:, None, None]
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[:, :1], offsets.shape), atol=1e-9)
    assert not np.allclose(offsets[0], offsets[1])


def test_an_eye_corner_in_the_wrong_place_hardly_makes_a_face_small():
    faces = drawn_faces(FaceGenerator(0, 32), 0, 20)
    true = faces.sizes
    assert np.median(true / face_sizes(faces.points, IBUG_68)) == pytest.approx(1, abs=0.02)
    points = faces.points.copy()
    points[3, 36] = points[3, 45] + 0.01  # as if the eyes were one
    np.testing.assert_allclose(faces.with_points(points).sizes, true, rtol=0.05)


def test_a_face_is_cut_out_square_and_the_edge_repeats_where_it_leaves_the_picture():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :, 2] = 50  # the last row and column continue outwards
    spots = np.array([[4, 6], [50, 6], [28, 30]])
    for x, y in spots:
        picture[y - 1 : y + 2, x - 1 : x + 2, 0] = 255
    points = spots + 0.5
    square, inside = cut_out(picture, points, 96)
    assert square.shape == (96, 96, 3)
    before = np.linalg.norm(points[:, None] - points, axis=-1)
    after = np.linalg.norm(inside[:, None] - inside, axis=-1)
    np.testing.assert_allclose(after, before / before.max() * after.max())  # no distortion
    for point in inside:
        x, y = (point * 96).astype(int)
        assert square[y, x, 0] > 200
    assert (square[:, :, 2] == 50).all()  # also where there was no picture


def test_a_filmed_still_moves_with_its_points():
    size = 64
    image = np.zeros((size, size, 3), np.uint8)
    spots = np.array([[20, 24], [44, 30], [31, 45]])
    for x, y in spots:
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    points = (spots + 0.5) / size
    video = sources.filmed(image, points, 40, seed=0)
    assert video.images.shape == (40, size, size, 3)
    assert np.abs(np.diff(video.points, axis=0)).max() > 0.002  # it moves, and not in jumps
    assert np.abs(np.diff(video.points, axis=0)).max() < 0.03
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    for frame, there in zip(video.images[::7], video.points[::7], strict=True):
        for x, y in there * size:
            near = frame[..., 0] * (np.hypot(columns - x, rows - y) < 6.0)
            found = (near * columns).sum() / near.sum(), (near * rows).sum() / near.sum()
            np.testing.assert_allclose(found, (x, y), atol=0.15)


def config_of(**fields):
    config = landmark_config()
    config.model.image = "test/8"
    sizes = {"test": 3, "videos": 2, "frames": 5}
    config.landmarks.update(sizes | fields)
    return config


def real_looking(count):
    """Pictures of faces with room around them, and the points in pixels."""
    faces = drawn_faces(FaceGenerator(5, 80), 0, count)
    return faces.images, faces.points * 80


def test_a_folder_of_pictures_with_pts_files(tmp_path):
    images, points = real_looking(8)
    (tmp_path / "more").mkdir()
    for number, (image, marks) in enumerate(zip(images, points, strict=True)):
        stem = tmp_path / ("more" if number % 2 else "") / f"face{number}"
        Image.fromarray(image).save(stem.with_suffix(".png"))
        stem.with_suffix(".pts").write_text(pts(marks))
    Image.fromarray(images[0]).save(tmp_path / "alone.png")  # no points beside it
    faces = sources.open_faces(config_of(source="folder", path=str(tmp_path)), 5)
    assert faces.train.images.shape == (5, 16, 16, 3)
    assert faces.test.points.shape == (3, 68, 2)
    assert [video.points.shape for video in faces.videos] == [(5, 68, 2)] * 2
    everyone = np.concatenate([faces.test.points, faces.train.points])
    assert len({face.tobytes() for face in everyone}) == 8  # nobody is in both
    by_hand = {
        cut_out(i, p.round(12), 16)[0].tobytes() for i, p in zip(images, points, strict=True)
    }
    assert {image.tobytes() for image in faces.train.images} <= by_hand
    for said, fields in (
        ("lower them", {"test": 4}),
        ("holds no picture with a .pts", {"path": str(tmp_path / "none")}),
        ("needs a folder", {"path": ""}),
        ("there is drawn, folder, the300w_lp", {"source": "folders"}),
    ):
        config = config_of(**{"source": "folder", "path": str(tmp_path)} | fields)
        with pytest.raises(UserError, match=said):
            sources.open_faces(config, 5)


with skip_registration():  # TFDS has one of that name, with a download

    class Small300W(tfds.core.GeneratorBasedBuilder):
        """The data set of that name: its features, and other faces."""

        name = "the300w_lp"
        VERSION = tfds.core.Version("1.0.0")
        images, points = None, None

        def _info(self):
            features = tfds.builder("the300w_lp", data_dir=self._data_dir_root).info.features
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            others = {
                name: np.zeros(feature.shape, np.float32)
                for name, feature in self.info.features.items()
            }
            for number, image in enumerate(self.images):
                shares = (self.points[number] / 450).astype(np.float32)
                yield number, others | {"image": image, "landmarks_2d": shares}


@pytest.mark.parametrize("by_folder", [True, False])
def test_the_300w_lp_as_tfds_builds_it(tmp_path, by_folder):
    images, points = real_looking(9)
    images = np.stack([np.asarray(Image.fromarray(x).resize((450, 450))) for x in images])
    points *= 450 / 80
    builder = Small300W(data_dir=tmp_path)
    builder.images, builder.points = images, points
    builder.download_and_prepare()
    path = builder.data_dir if by_folder else tmp_path
    faces = sources.open_faces(config_of(source="the300w_lp", path=str(path)), 6)
    found = np.concatenate([faces.test.points, faces.train.points])
    wanted = np.stack([cut_out(i, p, 16)[1] for i, p in zip(images, points, strict=True)])
    order = np.argsort(found[:, 0, 0]), np.argsort(wanted[:, 0, 0])
    np.testing.assert_allclose(found[order[0]], wanted[order[1]], atol=1e-5)
    assert faces.train.images.std() > 10
    with pytest.raises(UserError, match="lower them"):
        sources.open_faces(config_of(source="the300w_lp", path=str(path)), 7)


def test_drawn_faces_to_judge_by_are_not_those_to_train_on():
    faces = sources.open_faces(config_of(), 4)
    assert len(faces.train.images) == 4
    everyone = np.concatenate([faces.train.points, faces.test.points])
    assert len({face.tobytes() for face in everyone}) == 7
    again = drawn_videos(FaceGenerator(0, 16, 0.2, 4.0), sources.FIRST_TEST_FACE, 2, 5)
    np.testing.assert_array_equal(faces.videos[1].images, again[1].images)


@pytest.fixture
def wordless_clip(clip_folder, tmp_path):
    """The small CLIP without its tokenizer."""
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder, ignore=shutil.ignore_patterns("*token*"))
    return folder


def pretrained_config(folder):
    config = config_of(train=8, test=2, videos=1)
    config.model.image = "tiny/12"  # another size, which says nothing here
    config.model.pretrained = str(folder)
    config.train.freeze = ("image/.*",)
    config.train.steps, config.train.batch_size = 2, 8
    return config


def test_a_detector_begins_with_the_image_encoder_of_a_pretrained_clip(wordless_clip, tmp_path):
    weights, config = read_weights(str(wordless_clip)), pretrained_config(wordless_clip)
    faces = sources.open_faces(config, 8)
    assert faces.train.images.shape[1] == weights.model.image.image_size == 16
    trained = train_detector(config, faces.train, tmp_path / "run")
    encoder = trained.objective.model.image
    for field in ("width", "patch_size", "activation", "mean", "deviation"):
        assert getattr(encoder, field) == getattr(weights.model.image, field), field
    # The encoder is held still: what it has is what it began with.
    found, wanted = (flatten_dict(x["image"], sep="/") for x in (trained.params, weights.params))
    assert len(found) > 5
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert "left aside: nothing" in (tmp_path / "run/train.log").read_text()
    assert answers(trained, faces.test.images).shape == (2, 68, 2)


def test_the_encoder_of_a_run_of_ours_is_taken_as_well(finished_run):
    encoder, params = open_encoder(pretrained_config(finished_run))
    weights = read_clip(str(finished_run))
    assert encoder.width == weights.model.image.width
    for found, wanted in zip(
        jax.tree.leaves(params["image"]), jax.tree.leaves(weights.params["image"]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_a_pretrained_encoder_takes_other_pictures_and_no_stem(wordless_clip):
    config = pretrained_config(wordless_clip)
    config.data.image_size = 32
    assert sources.open_faces(config, 8).train.images.shape[1] == 32
    for field, value, said in (
        ("data.image_size", 20, "does not divide into patches of 8; use 16"),
        ("landmarks.stem", (8,), r"add --config.landmarks.stem='\(\)'"),
        ("model.pretrained", "nowhere", "no checkpoint at 'nowhere'"),
    ):
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=said):
            sources.open_faces(wrong, 8)
