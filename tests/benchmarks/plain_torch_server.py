"""The network of `plain_torch.py` behind LitServe: what the server is compared with.

python tests/benchmarks/plain_torch_server.py RUN PORT BATCH      # needs litserve
"""

import base64
import io
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import litserve
import torch
from PIL import Image
from plain_torch import from_ours

import cmaclip_jax as cma
from cmaclip_jax.training.saved_parameters import read_parameters


class PlainApi(litserve.LitAPI):
    """Decodes in the web process, and computes shared batches in the worker."""

    def __init__(self, workdir: str, batch: int):
        super().__init__(max_batch_size=batch, batch_timeout=0.002)
        self.workdir = workdir
        self.size = 0

    def setup(self, device):
        torch.set_num_threads(os.cpu_count())
        trained = cma.load(self.workdir).trained
        self.encode = trained.encode
        params = jax.device_get(read_parameters(self.workdir)[1])
        self.network = from_ours(trained.objective.model, params, self.encode.text_length).eval()

    def decode_request(self, request):
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        size = self.encode.image_size
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(image), request["text"]

    def batch(self, inputs):
        images, texts = zip(*inputs, strict=True)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        ids = torch.from_numpy(self.encode.tokenizer(texts, self.encode.text_length)).long()
        return pixels, ids

    def predict(self, batch):
        with torch.inference_mode():
            return [logits.softmax(-1).numpy() for logits in self.network(*batch)]

    def unbatch(self, output):
        return list(zip(*output, strict=True))

    def encode_response(self, output):
        answers = {}
        for task, row in zip(self.encode.tasks, output, strict=True):
            best = int(row.argmax())
            answers[task.name] = {"label": task.classes[best], "probability": float(row[best])}
        return answers


def main(workdir: str, port: str, batch: str) -> None:
    server = litserve.LitServer(
        PlainApi(workdir, int(batch)), accelerator="cpu", workers_per_device=1, timeout=60
    )
    server.run(host="127.0.0.1", port=int(port), log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
