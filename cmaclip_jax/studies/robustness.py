"""The accuracy of a trained run when noise is added to pictures or words."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmaclip_jax.data.noise import IMAGE_NOISES, PROTOCOLS, STRENGTHS, TEXT_NOISES, Noise
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.files import write_text
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.runs.judged import JudgedRun
from cmaclip_jax.tasks import Task, read_tasks

CLEAN = Noise()
KINDS = [("image", kind) for kind in IMAGE_NOISES] + [("text", kind) for kind in TEXT_NOISES]
SEVERITIES = (1, 2, 3, 4, 5)


def conditions(
    names: Sequence[str] = (), severities: Sequence[int] = SEVERITIES, share: float = 1.0
) -> list[Noise]:
    """No noise, then every kind with every severity; kinds without severities once.

    names: 'blur', or 'image.blank' if pictures and words share the name of a kind. (): all kinds.
    share: of the pairs that get the noise.
    """
    known = {name for where, kind in KINDS for name in (kind, f"{where}.{kind}")}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"unknown noise {unknown[0]!r}; there is "
            + ", ".join(f"{where}.{kind}" for where, kind in KINDS)
        )
    wanted = [CLEAN]
    for where, kind in KINDS:
        if not names or {kind, f"{where}.{kind}"} & set(names):
            wanted_severities = severities if kind in STRENGTHS else [CLEAN.severity]
            named: dict[str, Any] = {where: kind}
            wanted += [Noise(**named, severity=x, share=share) for x in wanted_severities]
    return wanted


def half_conditions() -> list[Noise]:
    """No noise, then the published protocol in its two strengths."""
    return [CLEAN, *PROTOCOLS.values()]


def noise_name(noise: Noise) -> str:
    """'image gaussian', 'text drop', 'image gaussian, text blank (50%)', or 'clean'."""
    kinds = (("image", noise.image), ("text", noise.text))
    name = ", ".join(f"{where} {kind}" for where, kind in kinds if kind) or "clean"
    return name if noise.share == 1 else f"{name} ({noise.share:.0%})"


def severity(noise: Noise) -> int | None:
    """The severity of a noise; None if its kinds have no severities."""
    return noise.severity if {noise.image, noise.text} & set(STRENGTHS) else None


def condition_name(noise: Noise) -> str:
    """'image gaussian 3'; without a number if the noise has no severity."""
    return f"{noise_name(noise)} {severity(noise) or ''}".strip()


@dataclasses.dataclass(frozen=True)
class NoiseResult:
    """The figures of a run under a noise: {task: examples, accuracy, image_weight}, and means.

    They are of the pairs that are complete without the noise.
    """

    run: str
    noise: Noise
    tasks: dict[str, dict]
    mean: dict[str, float | None]


def judge(
    trained: JudgedRun, split: str, noises: Sequence[Noise], track: Callable
) -> Iterator[tuple[Noise, dict]]:
    """Each noise with the `tasks` and the `mean` of its NoiseResult. The model is compiled once.

    track: shows the progress of an evaluation, `(batches, noise) -> batches`.
    """

    for noise in noises:
        show = functools.partial(_shown, track, noise)
        outcome = trained.with_noise(noise).outcome(split, show)
        inputs = trained.config.model.inputs
        figures = score(outcome, trained.tasks, split, trained.step, inputs=inputs)
        yield noise, _in_short(figures["tasks"])


def _shown(track: Callable, noise: Noise, batches: Iterable, **_: Any) -> Iterable:
    """The batches, tracked under the name of their noise."""
    return track(batches, noise)


def _in_short(tasks: dict[str, dict]) -> dict:
    """The `tasks` and the `mean` of a NoiseResult, from the figures of all tasks."""
    short = {
        name: {
            "examples": task["examples"],
            "accuracy": task["accuracy"],
            "image_weight": task["modality_weights"]["image"],
        }
        for name, task in tasks.items()
    }
    known = [task for task in short.values() if task["examples"]]
    mean = {
        name: float(np.mean([task[name] for task in known])) if known else None
        for name in ("accuracy", "image_weight")
    }
    return {"tasks": short, "mean": mean}


def check_same_tasks(workdirs: Sequence[Path]) -> None:
    """Raises UserError if runs differ in their tasks or classes."""
    asked = [{task.name: set(task.classes) for task in _tasks(path)} for path in workdirs]
    for path, tasks in zip(workdirs, asked, strict=True):
        if tasks != asked[0]:
            raise UserError(
                f"{path} and {workdirs[0]} differ in their tasks or classes "
                f"({', '.join(tasks)}; {', '.join(asked[0])}); compare runs that share them"
            )


def check_same_pairs(results: Sequence[NoiseResult]) -> None:
    """Raises UserError if runs were evaluated on different numbers of labels of a task."""
    clean = [result for result in results if result.noise == CLEAN]
    for result in clean:
        for task, figures in result.tasks.items():
            own, first = figures["examples"], clean[0].tasks[task]["examples"]
            if own != first:
                raise UserError(
                    f"{result.run} was judged by {own:,} pairs in {task!r} and {clean[0].run} "
                    f"by {first:,}; compare runs on the same data, or change it with "
                    "--config.data.path"
                )


def _tasks(path: Path) -> tuple[Task, ...]:
    try:
        return read_tasks(path / "tasks.json")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no whole run: it lacks a tasks.json; train first") from error


class ResultsFile:
    """The file of results. Results that it has are not computed again.

    They belong to a split, to changes of the runs' configs, and to the folder and step of a run.
    """

    def __init__(self, path: Path, split: str, overrides: Sequence[str]):
        self._path = path
        self._about = {"split": split, "overrides": list(overrides)}
        self._steps, self._results = _read(path, self._about)

    def begin(self, run: str, step: int) -> None:
        """Drops the results of a run at another step."""
        if self._steps.get(run) != step:
            self._results = [x for x in self._results if x.run != run]
            self._steps[run] = step

    def of(self, run: str, noises: Sequence[Noise]) -> list[NoiseResult]:
        """The results of a run under these noises, without missing ones, in their order."""
        known = {x.noise: x for x in self._results if x.run == run}
        return [known[noise] for noise in noises if noise in known]

    def add(self, result: NoiseResult) -> None:
        """Adds a result; the first host writes all results."""
        self._results.append(result)
        if not leads():
            return
        results = list(map(dataclasses.asdict, self._results))
        content = {**self._about, "steps": self._steps, "findings": results}
        write_text(self._path, json.dumps(content, indent=1) + "\n")


def _read(path: Path, about: dict) -> tuple[dict[str, int], list[NoiseResult]]:
    """The steps and results in the file; none if they are about something else."""
    try:
        saved = json.loads(path.read_text())
        if any(saved[name] != value for name, value in about.items()):
            return {}, []
        results = [NoiseResult(**{**x, "noise": Noise(**x["noise"])}) for x in saved["findings"]]
        return saved["steps"], results
    except (OSError, ValueError, LookupError, TypeError):  # no file, or another one
        return {}, []
