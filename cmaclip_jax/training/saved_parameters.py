"""The parameters of a trained run, read to answer: from its checkpoints, or as it was pushed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from cmaclip_jax.errors import UserError
from cmaclip_jax.training.frozen import joined, read_frozen, read_to_host
from cmaclip_jax.weights.layout import save_tensors

SCORE = "score"  # of a checkpoint, measured while the run was trained
APART = "frozen_apart"  # whether a checkpoint leaves the frozen parameters out
NEWEST, BEST = "newest", "best"  # of a run's checkpoints
SOUP = "soup.npz"  # in the folder of the last checkpoint: parameters that answer in its place
PUSHED = "model.safetensors"  # the parameters of a pushed run, which has no checkpoints


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder."""
    return [int(path.name) for path in folder.glob("*") if path.name.isdigit()]


def chosen_step(workdir: str | Path, which: str | int = NEWEST) -> int:
    """The step of the checkpoint that `which` means: 'newest', 'best' or the step itself.

    The best one has the highest score that was measured on the way; of equals it is the newest.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    steps = sorted(checkpoint_steps(folder)) or pushed_steps(workdir)
    if not steps:
        raise UserError(f"no checkpoint in {folder}; train first")
    if which == NEWEST:
        return steps[-1]
    if which == BEST:
        best = best_steps(workdir, 1)
        if not best:
            raise UserError(
                f"no checkpoint in {folder} was judged on the way (eval.every, eval.watch), so "
                "none is the best; take --checkpoint=newest or a step"
            )
        return best[0]
    if str(which).isdigit() and int(which) in steps:
        return int(which)
    there = ", ".join(map(str, steps))
    raise UserError(
        f"no checkpoint {which} in {folder}; --checkpoint takes {NEWEST}, {BEST} or one of {there}"
    )


def best_steps(workdir: str | Path, most: int) -> list[int]:
    """Up to `most` steps, those with the highest scores first; of equals, the newest first.

    Checkpoints that were not judged while the run was trained are left out.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    scores = {step: _score(folder / str(step)) for step in checkpoint_steps(folder)}
    judged = [(score, step) for step, score in scores.items() if score > -math.inf]
    return [step for _, step in sorted(judged, reverse=True)[:most]]


def _score(folder: Path) -> float:
    """The score that a checkpoint was saved with; minus infinity where it has none."""
    return _metrics(folder).get(SCORE, -math.inf)


def _metrics(folder: Path) -> dict[str, float]:
    """What a checkpoint was saved with besides the state."""
    try:
        return json.loads((folder / "metrics" / "metrics").read_text())
    except (OSError, ValueError):
        return {}


def read_parameters(workdir: str | Path, which: str | int = NEWEST) -> tuple[int, Any]:
    """`(step, parameters)` of a checkpoint to answer with, for any model and any mesh of the run.

    The last checkpoint of a run with `eval.soup` answers with the soup.
    """
    step = chosen_step(workdir, which)
    soup, folder = soup_file(workdir, step), Path(workdir).resolve() / "checkpoints"
    if not (folder / str(step)).exists():
        return step, _pushed_parameters(Path(workdir) / PUSHED)
    if not soup.exists():
        return step, checkpoint_parameters(workdir, step)
    try:
        with np.load(soup) as arrays:
            mean = unflatten_dict(dict(arrays), sep="/")
        return step, joined(_frozen_of(workdir, step), mean)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{soup} cannot be read; the command that trained the run makes it again"
        ) from error


def write_pushed(folder: Path, step: int, params: Any) -> None:
    """Writes parameters as one file, from which a folder without checkpoints answers."""
    save_tensors(folder / PUSHED, flatten_dict(params, sep="/"), {"step": str(step)})


def pushed_steps(workdir: str | Path) -> list[int]:
    """The step of the parameters of a pushed run; empty if the folder holds none."""
    file = Path(workdir) / PUSHED
    if not file.exists():
        return []
    try:
        with safe_open(file, framework="numpy") as opened:
            return [int(opened.metadata()["step"])]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not what `cmaclip push` writes ({error!r})") from error


def _pushed_parameters(file: Path) -> Any:
    """The parameters that `write_pushed` wrote."""
    try:
        with safe_open(file, framework="numpy") as opened:
            flat = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short ({error}); fetch it again") from error
    return unflatten_dict(flat, sep="/")


def soup_file(workdir: str | Path, step: int) -> Path:
    """The file of the soup that answers in place of a step's own parameters."""
    return Path(workdir).resolve() / "checkpoints" / str(step) / SOUP


def checkpoint_parameters(workdir: str | Path, step: int) -> Any:
    """The parameters that training left at a step: the averaged ones if the run keeps an average.

    The frozen ones come from where the run keeps them.
    """
    folder = Path(workdir).resolve() / "checkpoints" / str(step)
    saved = read_to_host(folder / "default", _answering_part)
    return joined(_frozen_of(workdir, step), *saved.values())


def frozen_apart(workdir: str | Path, step: int) -> bool:
    """Whether the checkpoint of a step leaves out the frozen parameters of its run."""
    return bool(_metrics(Path(workdir).resolve() / "checkpoints" / str(step)).get(APART))


def _frozen_of(workdir: str | Path, step: int) -> Any:
    """The parameters that the checkpoint of a step leaves out."""
    return read_frozen(workdir) if frozen_apart(workdir, step) else {}


def _answering_part(saved: Any) -> dict[str, Any]:
    """Of a saved state: the averaged parameters, and those that have no average."""
    params, averaged = saved["params"], saved["ema"]
    if averaged is None:
        return {"params": params}
    have = flatten_dict(averaged)
    others = {path: x for path, x in flatten_dict(params).items() if path not in have}
    return {"params": unflatten_dict(others), "ema": averaged} if others else {"ema": averaged}
