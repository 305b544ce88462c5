"""What to change where a command asked for more memory than there is."""

from cmaclip_jax.parallel.memory import refusal_of

TRAINING = (
    "lower --config.train.batch_size, or keep it and raise --config.train.accumulate, which takes "
    "it in parts; --config.model.remat=full computes again what it would keep; over several "
    "devices --config.mesh.fsdp shares out the parameters"
)
ANSWERING = "lower --config.eval.batch_size, on which no figure depends"
KEPT = "lower eval.batch_size in the run's config.json, on which no answer depends"
ELSE = "end other programs, or use a machine with more"
ADVICE = {
    "train": f"{TRAINING}; for the evaluations {ANSWERING}",
    "ablate": f"{TRAINING}; for the evaluations {ANSWERING}",
    "bench": f"{TRAINING}; for every part but `train` {ANSWERING}",
    "landmarks study": TRAINING,
    "evaluate": ANSWERING,
    "robustness": ANSWERING,
    "report": ANSWERING,
    "predict": KEPT,
    "explain": KEPT,
}


def out_of_memory(command: str, error: BaseException) -> str | None:
    """One line about an error for lack of memory; None for an error of any other kind."""
    refusal = refusal_of(error)
    return refusal and f"{refusal}; {ADVICE.get(command, ELSE)}"
