"""The model card of a run, in Markdown: what a stranger needs to know, as far as the run knows it.

Nothing in it was written by hand, so it says nothing about the data beyond their source, and names
what was not measured.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from ml_collections import ConfigDict

from cmaclip_jax import __version__
from cmaclip_jax.config import base_config
from cmaclip_jax.evaluation.scores import PAIRS
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.parallel.rules import parameter_count
from cmaclip_jax.report.results import ORDER, RunResults, read_results
from cmaclip_jax.report.task_table import accepted_figures, chosen_on, quality
from cmaclip_jax.runs.adapters import run_adapters
from cmaclip_jax.serving.pushing import Pushable
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.workdir import differences

ALL, FIRST = 15, 12  # so many classes of a task are listed at most; of more, the first ones
AT_HOME = ("mesh.", "checkpoint.", "profile.")  # settings that say nothing about the model
READS = {
    "both": "a picture and its words, and answers {} about them",
    "image": "a picture, and answers {} about it",
    "text": "words, and answers {} about them",
}
READING = {
    "weights": "the mean weight of the picture / of the words",
    "accuracy": "the share of pairs that are answered rightly; where several classes may hold, all "
    "have to be right",
    "macro F1": "the mean of the classes' F1, so that rare classes count as much as others",
    "average precision": "a mean over the classes, too",
    "calibration error": "the mean difference between a probability and the share that is right",
    "no picture": "the accuracy on pairs without a picture, and their number",
    "no words": "the accuracy on pairs without words, and their number",
    "known": "pairs whose answer is known",
    "commonest": "the accuracy of always naming the most frequent class",
}


def model_card(run: Pushable, name: str, folder: str, licence: str) -> str:
    """The card of a run that is pushed to the repository `name`, or to a folder if that is ''.

    licence: of the model, as SPDX names it; '' if none was stated.
    """
    results = _results(run)
    title = Path(name or folder).name
    parts = [
        _front_matter(run, licence),
        f"# {_plain(title)}\n\n{_introduction(run)}",
        f"## What it answers\n\n{_tasks(run.encode.tasks)}",
        f"## How to use it\n\n{_use(run, name, title)}",
        f"## How good it is\n\n{_figures(run, results)}",
        f"## Which answers to accept\n\n{_acceptance(run, results)}",
        f"## Limits\n\n{_limits(run)}",
        f"## How it was made\n\n{_making(run)}",
        f"## Licence\n\n{_licence(licence)}",
    ]
    return "\n\n".join(parts) + "\n"


def _results(run: Pushable) -> RunResults:
    """The results of the first evaluated split whose figures are of the step that is pushed."""
    found = [read_results(run.workdir, split) for split in ORDER]
    return next((r for r in found if r.figures.get("step") == run.step), found[0])


def _front_matter(run: Pushable, licence: str) -> str:
    """The fields in YAML at the top of the card, which the hub reads."""
    kind = "text-classification" if run.config.model.inputs == "text" else "image-classification"
    data = ModelCardData(
        library_name="cmaclip_jax",
        license=licence.lower() or None,
        pipeline_tag=kind,
        tags=["cmaclip_jax", "cma-clip", "clip", "jax", "multimodal", "multi-task"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _introduction(run: Pushable) -> str:
    model, count = run.config.model, len(run.encode.tasks)
    questions = f"{count} questions" if count > 1 else "a question"
    weighed = model.inputs == "both" and model.modality in ("attention", "gated")
    weights = ", and how much it rests on the picture and on the words" if weighed else ""
    return (
        f"This model reads {READS[model.inputs].format(questions)}. Every answer says how probable "
        f"it is{weights}. It is a [CMA-CLIP](https://arxiv.org/abs/2112.03562), trained with "
        "`cmaclip_jax` in JAX and Flax."
    )


def _tasks(tasks: Sequence[Task]) -> str:
    kinds = ("one of", "any number of")
    return _table(
        ["task", "answer", "classes"], [[t.name, kinds[t.many], _classes(t.classes)] for t in tasks]
    )


def _classes(names: Sequence[str]) -> str:
    if len(names) <= ALL:
        return ", ".join(names)
    return f"{', '.join(names[:FIRST])} and {len(names) - FIRST:,} more, in tasks.json"


def _use(run: Pushable, name: str, folder: str) -> str:
    encode, task = run.encode, run.encode.tasks[0].name
    workdir = f"hf://{name}" if name else shlex.quote(folder)
    copy = f"a copy: `hf download {name} --local-dir=FOLDER`" if name else "this folder"
    inputs, columns = [], ""
    if encode.reads_image:
        inputs, columns = ['images=["photo.jpg"]'], " --image=COLUMN"
    if encode.reads_text:
        inputs, columns = [*inputs, 'texts=["its words"]'], f"{columns} --text=COLUMN"
    return f"""\
In a checkout of `cmaclip_jax`, version {__version__} or newer, on Python 3.11 to 3.13:

```
pip install -e .
```

```python
import cmaclip_jax as cma

model = cma.load({json.dumps(name or folder)})
answer = model.predict({", ".join(inputs)})[0][{json.dumps(task, ensure_ascii=False)}]
print(answer.label, answer.probability, answer.accepted, answer.weights)
```

A table of any size, and a server:

```
cmaclip predict --workdir={workdir} --input=new.csv --output=answers.csv \\
   {columns}
cmaclip serve --workdir={workdir}
```

All files are data; loading the model runs no code from them. In the commands below, FOLDER is \
{copy}."""


def _figures(run: Pushable, results: RunResults) -> str:
    config, figures, split = run.config, results.figures, results.split
    if figures.get("step") != run.step:
        return (
            f"No figures came with step {run.step:,}. With data that have labels, this prints "
            f"some:\n\n{_evaluate(config, '--split=test')}"
        )
    notes = ""
    if split == config.data.split:
        notes += " **The model was trained on these pairs.**"
    if config.eval.every and config.eval.watch == split:
        notes += f" The split was also evaluated every {config.eval.every:,} steps of the training."
    pairs = PAIRS[figures.get("scored", "all")]
    head, rows = quality(results, lambda image, text: f"{image:.2f} / {text:.2f}")
    reading = "\n".join(f"- {name}: {READING[name]}" for name in head if name in READING)
    return (
        f"On {figures['examples']:,} {pairs} of the split `{split}`, at step {run.step:,}.{notes} "
        f"With the data, this prints the figures:\n\n{_evaluate(config, f'--split={split}')}\n\n"
        f"{_table(head, rows)}\n\n{reading}"
    )


def _evaluate(config: ConfigDict, *options: str) -> str:
    """The command that evaluates a copy of the run."""
    data = () if config.data.source == "shop" else ("--config.data.path=DATA",)
    return f"```\n{' '.join(('cmaclip evaluate --workdir=FOLDER', *options, *data))}\n```"


def _acceptance(run: Pushable, results: RunResults) -> str:
    if not run.thresholds:
        return (
            "This model has no thresholds: it says how probable an answer is, and `accepted` is "
            "empty. With data that have labels, this chooses thresholds:\n\n"
            + _evaluate(run.config, "--precision=0.95")
        )
    chosen, after = list(run.thresholds.values()), ""
    head = ["task", "accepted from", "temperature"]
    rows = [[t.task.name, _from(t), f"{t.temperature:.3f}"] for t in chosen]
    if results.outcome and results.thresholds and results.figures["step"] == run.step:
        head += ["share accepted", "right of these"]
        for row, thresholds in zip(rows, chosen, strict=True):
            row += accepted_figures(results, thresholds.task)
        warning = chosen_on(results) if chosen[0].split == results.split else ""
        after = (
            "\n\nThe last two columns were measured on the pairs of the section above; where "
            f"several classes may hold, each class of a pair is an answer.{warning}"
        )
    return (
        f"{_promise(chosen)} Probabilities are scaled first: a temperature above 1 makes them "
        f"more cautious.\n\n{_table(head, rows)}{after}"
    )


def _from(thresholds: TaskThresholds) -> str:
    if thresholds.classes:
        return "a threshold for each class"
    value = thresholds.overall.value
    return "nothing is accepted" if value is None else f"{value:.3f}"


def _promise(thresholds: Sequence[TaskThresholds]) -> str:
    """What thresholds promise; one command chooses those of all tasks."""
    first = thresholds[0]
    where = f" on the split `{first.split}`" if first.split else ""
    aim = (
        "An answer is accepted if its probability reaches the threshold. The thresholds were chosen"
        f"{where} so that {100 * first.target:.4g} % of the accepted answers are right."
    )
    if first.level is None:
        return f"{aim} On other pairs they may reach less: nothing is promised."
    promise = (
        f"{aim} The promise: of all thresholds that are chosen in this way, at most "
        f"{100 * (1 - first.level):.3g} % miss that share. It holds for each threshold by itself "
        "and for pairs like those that it was chosen on, if less probable answers are not right "
        "more often."
    )
    if any(t.task.many and not t.classes for t in thresholds):
        promise += (
            " It does not cover classes of one pair that are right or wrong together, where "
            "several may hold."
        )
    return promise


def _limits(run: Pushable) -> str:
    encode, reads = run.encode, run.config.model.inputs
    lines = [
        "It knows the classes above and no other. A pair of another kind is answered too, perhaps "
        "with a high probability, and thresholds promise nothing about it."
    ]
    if reads == "both":
        lines.append(
            "A pair may lack its picture or its words: the other one gets the whole weight. A pair "
            "without both has no answer."
        )
    if encode.reads_image:
        lines.append(
            f"Of a picture it sees the middle square, at {encode.image_size} x {encode.image_size} "
            "pixels."
        )
    if encode.reads_text:
        lines.append(
            f"Of a text it reads the first {encode.text_length} tokens, start and end included. It "
            "was trained on texts of the data named below; other languages were not measured."
        )
    lines.append(
        "This card knows of no measurement on other data, by groups of people, or on inputs that "
        "were made to deceive."
    )
    return "\n".join(f"- {line}" for line in lines)


def _adapters(run: Pushable) -> str:
    """The adapters by which the encoders were tuned; '' without any."""
    return "; ".join(
        f"{side}: rank {adapter.rank} for {', '.join(adapter.products)} of every layer"
        for side, adapter in run_adapters(run.config.model.lora, run.towers).items()
        if adapter and side in run.params
    )


def _making(run: Pushable) -> str:
    config, image, text = run.config, run.towers.image, run.towers.text
    version = run.workdir / "version.txt"
    versions = version.read_text().split() if version.exists() else ["of an unknown version"]
    adapters = _adapters(run)
    rows = [
        ["data", _data(config)],
        ["encoder of pictures", f"{_size(image)}, patches of {image.patch_size} pixels"],
        ["encoder of texts", _size(text)],
        ["encoders start", f"from {config.model.pretrained or 'scratch'}"],
        *([["adapters", adapters]] if adapters else []),
        ["parameters", f"{parameter_count(run.params):,}, float32"],
        [
            "steps",
            f"{run.step:,} of {config.train.steps:,}, {config.train.batch_size:,} pairs each",
        ],
        ["trained by", f"cmaclip_jax {', '.join(versions)}"],
    ]
    changes = "\n".join(_changes(config)) or "none"
    return (
        f"{_table(['', ''], rows)}\n\n`config.json` has every setting. These differ from the "
        f"project's defaults:\n\n```\n{changes}\n```"
    )


def _size(encoder: Any) -> str:
    return f"{encoder.layers} layer{'s'[: encoder.layers > 1]} of width {encoder.width}"


def _data(config: ConfigDict) -> str:
    data = config.data
    if data.source == "shop":
        return (
            f"pictures and titles drawn by cmaclip_jax, {data.shop.train_size:,} pairs to train on"
        )
    name = data.tfds.name or data.path
    kind = {"table": "a table", "tfds": "TensorFlow Datasets"}.get(data.source, data.source)
    return f"{kind}: {name}" if name else kind


def _changes(config: ConfigDict) -> Iterable[str]:
    """The settings that are not as in `base_config`."""
    own, usual = (json.loads(c.to_json_best_effort()) for c in (config, base_config()))
    for name, _, value in differences(usual, own):
        if not name.startswith(AT_HOME):
            yield f"--config.{name}={json.dumps(value, ensure_ascii=False)}"


def _licence(licence: str) -> str:
    if licence:
        return f"`{licence}`, as stated by whoever pushed the model."
    return "None was stated. Ask whoever pushed the model before you use it."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [map(_plain, head), ["---"] * len(head), *(map(_plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", " ".join(str(text).split()))
