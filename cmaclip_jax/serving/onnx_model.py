"""Opens an exported model with ONNX Runtime. Exports in ONNX contain a copy of this file."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime

FILES = ("model.onnx",)


def open_model(folder: Path) -> Callable[[dict], dict]:
    """`{input: [B,...]} -> {"probabilities": {task: [B,C]}, "modality_weights": {task: [B,2]}}`."""
    (file,) = FILES
    session = onnxruntime.InferenceSession(
        folder / file, providers=onnxruntime.get_available_providers()
    )
    names = [output.name for output in session.get_outputs()]

    def answer(batch: dict) -> dict:
        answers: dict = {}
        for name, values in zip(names, session.run(names, batch), strict=True):
            kind, task = name.split("/", 1)
            answers.setdefault(kind, {})[task] = values
        return answers

    return answer
