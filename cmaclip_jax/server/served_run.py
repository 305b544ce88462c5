"""The run that a server answers with, and the change to its newest checkpoint."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from cmaclip_jax import process
from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.thresholds import run_thresholds
from cmaclip_jax.parallel.mesh import shared_rows
from cmaclip_jax.report.explainer import Explainer
from cmaclip_jax.serving.classifier import Classifier
from cmaclip_jax.training.saved_parameters import NEWEST, read_parameters
from cmaclip_jax.training.workdir import saved_config

RELOAD = "reload"  # the file in a run's folder whose change loads the newest checkpoint


class ServedRun:
    """A classifier, replaced as a whole when a newer checkpoint is loaded.

    sizes: the sizes of a batch, in rising order: 1, 2, 3, 4, 6, 8, 12, ..., so that on one device
        at most a third of a batch is padding. On several, sizes that divide over them.
    """

    def __init__(self, classifier: Classifier, most: int):
        self.classifier = classifier
        mesh = classifier.trained.mesh
        powers = [2**power for power in range(most.bit_length())]
        sizes = [size for power in powers for size in (power, 3 * power) if size < most]
        self.sizes = sorted({shared_rows(mesh, size) for size in (*sizes, most)})
        self.explainer = Explainer(classifier)

    @property
    def workdir(self) -> Path:
        return self.classifier.trained.workdir

    @property
    def step(self) -> int:
        return self.classifier.trained.step

    def warm_up(self) -> Iterator[float]:
        """Compiles size after size, and yields the seconds that a batch of it takes."""
        for size in self.sizes:
            self._answer_nothing(size)
            start = time.perf_counter()
            self._answer_nothing(size)
            yield time.perf_counter() - start

    def load_newest(self) -> None:
        """Loads the newest checkpoint and its thresholds; the programs stay as they are.

        Raises:
          UserError: this checkpoint cannot answer. The server goes on with the one that it has.
        """
        trained = self.classifier.trained
        if saved_config(trained.workdir) != trained.config:
            raise UserError(f"the config of {trained.workdir} has changed; restart the server")
        step, params = read_parameters(trained.workdir, NEWEST)
        thresholds = run_thresholds(trained.workdir, step)
        params = trained.predictor.to_answer(params)
        self.classifier = Classifier(
            dataclasses.replace(trained, step=step, params=params), thresholds
        )
        self.explainer = Explainer(self.classifier)
        process.give_memory_back()  # that of the parameters before

    def _answer_nothing(self, size: int) -> None:
        reader = self.classifier.reader
        self.classifier.answer(*reader.batch([reader.read(Pair(None, None))] * size, size))
