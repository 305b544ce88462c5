"""Opens an exported model with ONNX Runtime. Exports in ONNX contain a copy of this file."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime

FILES = ("model.onnx",)
CPU = ("CPUExecutionProvider",)


def open_model(folder: Path, providers: Sequence[str] = CPU) -> Callable[[dict], dict]:
    """`{input: [B,...]} -> {"probabilities": {task: [B,C]}, "modality_weights": {task: [B,2]}}`.

    Name other providers to run on a GPU; they may round more coarsely.
    """
    options = onnxruntime.SessionOptions()
    if hasattr(os, "sched_getaffinity"):  # a container may have fewer cores than the machine
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
    (file,) = FILES
    session = onnxruntime.InferenceSession(folder / file, options, providers=providers)
    names = [output.name for output in session.get_outputs()]

    def answer(batch: dict) -> dict:
        answers: dict = {}
        for name, values in zip(names, session.run(names, batch), strict=True):
            kind, task = name.split("/", 1)
            answers.setdefault(kind, {})[task] = values
        return answers

    return answer
