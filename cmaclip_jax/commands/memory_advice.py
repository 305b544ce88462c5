"""Which settings to change after an out-of-memory error, for each command."""

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
    "compare": f"{TRAINING}; for the evaluations {ANSWERING}",
    "bench": f"{TRAINING}; for every part but `train` {ANSWERING}",
    "landmarks study": TRAINING,
    "evaluate": ANSWERING,
    "robustness": ANSWERING,
    "report": ANSWERING,
    "predict": KEPT,
    "explain": KEPT,
}


def out_of_memory(command: str, error: BaseException) -> str | None:
    """One line for an out-of-memory error: its size and the settings to change; else None."""
    refusal = refusal_of(error)
    return f"{refusal}; {ADVICE.get(command, ELSE)}" if refusal else None
