"""The result of an evaluation: scored, written into the run's folder, and shown."""

from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.result_files import write_outcome, write_score
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.evaluation.tables import retrieval_table, score_table
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.screen import Screen


def write_results(run, outcome: Outcome, split: str, step: int, screen: Screen) -> dict:
    """Scores the outcome of a split, writes it into the folder of `run`, and shows it.

    run: a `Run` or a `JudgedRun`.
    """
    wanted, data = run.config.eval, run.data
    fields = wanted.precisions, wanted.top_k, run.config.model.inputs
    figures = score(outcome, data.tasks, split, step, *fields)
    size = len(data.source(split))
    figures["left_out"] = left_out = size - len(outcome["row"])
    if not leads():
        return figures
    kept = {name: values for name, values in outcome.items() if name != "embeddings"}
    write_outcome(run.workdir, split, kept)
    path = write_score(run.workdir, figures)  # last: this file marks a run of a study as done
    if data.bad.reasons:
        screen.say(f"not used as they were: {data.bad.summary()}")
    if left_out:
        screen.say(
            f"{left_out:,} of the {size:,} pairs of {split} cannot be used and are not judged"
        )
    if data.tasks:
        screen.show(score_table(figures))
    elif figures.get("retrieval"):
        screen.show(retrieval_table(figures))
    else:
        screen.say(f"no pair of {split} has both picture and text; there is no score")
    screen.say(f"written to {path}")
    return figures
