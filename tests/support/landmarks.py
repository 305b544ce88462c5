"""Arguments and files of small runs on facial landmarks."""

from support.commands import ROOT

CONFIG = f"--config={ROOT / 'configs/landmarks.py'}"
SMALL = {
    "model.image": "test/8",
    "train.steps": 3,
    "train.batch_size": 8,
    "landmarks.stem": "()",
    "landmarks.train": 8,
    "landmarks.test": 4,
    "landmarks.videos": 1,
    "landmarks.frames": 4,
    "landmarks.study.seeds": 2,
    "landmarks.study.noises": "('bias',)",
    "landmarks.study.remedies": "('distilled','maps:none')",
    "landmarks.study.more_faces": "(12,)",
}


def arguments(**changes):
    fields = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    return [CONFIG, *(f"--config.{name}={value}" for name, value in fields.items())]


def pts(points):
    """A face as iBUG writes it."""
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"
