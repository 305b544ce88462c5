"""A trained run as others can load it: its folder without what only training needs.

config.json         without paths of this machine: only their last parts are kept
model.safetensors   the parameters that answer, and their step
tasks.json  tokenizer.json  clip.json  thresholds.json  version.txt   as in the run's folder
evaluation/         the figures of the same step, without the answers to single pairs
README.md           the model card

Checkpoints, logs, features and the list of bad records, which names records, stay at home.
"""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import LocalTokenNotFoundError
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.errors import UserError, first_line
from cmaclip_jax.evaluation.result_files import read_score
from cmaclip_jax.evaluation.thresholds import TaskThresholds, run_thresholds
from cmaclip_jax.files import write_text
from cmaclip_jax.runs.batch_encoder import TASKS, kept_encoder
from cmaclip_jax.runs.pushed import CONFIG, COPIED, FIGURES, FILES, HUB
from cmaclip_jax.runs.towers import Towers, kept_towers
from cmaclip_jax.training.saved_parameters import NEWEST, read_parameters, write_pushed
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.hub import HUB_NAME
from cmaclip_jax.weights.writer import new_folder

CARD = "README.md"
HARMLESS = {CARD, ".gitattributes"}  # files of a repository that holds nothing yet


@dataclasses.dataclass(frozen=True, eq=False)
class Pushable:
    """A run to push, with its parameters of one step. Its config has no path of this machine."""

    workdir: Path
    step: int
    params: Any
    config: ConfigDict
    towers: Towers
    encode: BatchEncoder
    thresholds: dict[str, TaskThresholds]

    @classmethod
    def open(cls, workdir: str | Path, checkpoint: str | int = NEWEST) -> "Pushable":
        """The run in a folder; UserError if it is not whole or has nothing to answer."""
        workdir, config = Path(workdir), saved_config(workdir)
        step, params = read_parameters(workdir, checkpoint)
        towers = kept_towers(config, workdir)
        encode = kept_encoder(config, workdir, towers)
        if not encode.tasks:
            raise UserError(
                f"{workdir} has no task to answer; `cmaclip convert --source={workdir} "
                "--output=DIR` writes its encoders"
            )
        thresholds = run_thresholds(workdir, step)
        return cls(workdir, step, params, without_paths(config), towers, encode, thresholds)

    def write(self, folder: Path, card: str) -> None:
        """Writes the files into an empty folder."""
        write_text(folder / CONFIG, self.config.to_json_best_effort(indent=2) + "\n")
        write_pushed(folder, self.step, self.params)
        write_text(folder / CARD, card)
        figures = [
            file
            for file in self.workdir.glob(FIGURES)
            if read_score(self.workdir, file.stem).get("step") == self.step
        ]
        for file in (*(self.workdir / name for name in COPIED), *figures):
            copy = folder / file.relative_to(self.workdir)
            if file.exists():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)


def without_paths(config: ConfigDict) -> ConfigDict:
    """The config with the last part alone of every path on the machine that trained the run."""
    data, pretrained = config.data.path, config.model.pretrained
    if not HUB_NAME.fullmatch(pretrained) or Path(pretrained).exists():
        pretrained = _last_part(pretrained)
    return with_changes(
        config,
        {
            "data.path": _last_part(data),
            "model.pretrained": pretrained,
            "model.lora.source": _last_part(config.model.lora.source),
        },
    )


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def hub_destination(to: str) -> str:
    """The ORG/NAME on the hub that `to` names; '' if it names a folder.

    hf://ORG/NAME is on the hub. So is ORG/NAME, unless there is a folder ORG here.
    """
    if re.match("hf:/", to):
        found = HUB.fullmatch(to)
        if not found or found[2]:
            raise UserError(f"--to={to} names no repository; write --to=hf://ORG/NAME")
        return found[1]
    return to if HUB_NAME.fullmatch(to) and not Path(to).parent.exists() else ""


def push_to_folder(run: Pushable, card: str, output: Path) -> None:
    """Writes the run as a new folder, whole or not at all."""
    with new_folder(output) as folder:
        run.write(folder, card)


def push_to_hub(run: Pushable, card: str, name: str, public: bool) -> str:
    """Uploads the run to a repository of the hub, made if need be; returns its address.

    An earlier push is replaced in one commit. A repository with anything else is left as it is,
    and so is one that is public although `public` is not asked for.
    """
    with tempfile.TemporaryDirectory(prefix="pushing-") as folder:
        run.write(Path(folder), card)
        try:
            hub = huggingface_hub.HfApi()
            address = hub.create_repo(name, private=not public, exist_ok=True)
            there = hub.model_info(name)
            _check_place(name, there, public)
            hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=f"Step {run.step:,} of a run of cmaclip_jax",
                delete_patterns=list(FILES),
            )
        except UserError:
            raise
        except Exception as error:  # of the network, of the hub, of the login
            raise UserError(f"nothing is pushed to {name}: {_reason(error)}") from error
    return str(address)


def _check_place(name: str, there: Any, public: bool) -> None:
    """Raises UserError if a repository is no place for this run."""
    others = {sibling.rfilename for sibling in there.siblings or ()} - HARMLESS
    if others and TASKS not in others:
        some = ", ".join(sorted(others)[:3])
        raise UserError(f"{name} on the hub holds something else ({some}); name another --to")
    if not (there.private or public):
        raise UserError(f"{name} on the hub is public; add --public, or name another --to")


def _reason(error: Exception) -> str:
    """What kept the hub from taking a run, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "the hub does not know you; log in with `hf auth login`, or set HF_TOKEN"
    if status in (403, 404):
        return "your login may not write there; take a token that may, or name another --to"
    said = getattr(error, "server_message", None) or first_line(error)
    return (
        f"{' '.join(said.split())}; try again, or write the same files with --to=./FOLDER and "
        "upload them later"
    )
