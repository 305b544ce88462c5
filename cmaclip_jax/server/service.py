"""What the routes of the server share: the run, the queue, the limits and the counters."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence

from cmaclip_jax.data.pairs import Pair, ReadPair
from cmaclip_jax.errors import UserError
from cmaclip_jax.report.pair_section import explained_pair
from cmaclip_jax.server.batcher import Answers, Batcher
from cmaclip_jax.server.limits import Limits, RefusedRequest, busy, too_late
from cmaclip_jax.server.metrics import Metrics
from cmaclip_jax.server.pictures import PictureThreads
from cmaclip_jax.server.served_run import ServedRun
from cmaclip_jax.serving.classifier import Classifier


class Service:
    """The state of one server.

    name: of the model, in the Open Inference Protocol.
    tokens: the bearer tokens, one of which every request needs; empty if none is needed.
    is_ready: whether all sizes of a batch are compiled.
    """

    def __init__(self, run: ServedRun, limits: Limits, name: str, tokens: Iterable[str] = ()):
        self.run, self.limits, self.name = run, limits, name
        self.metrics = Metrics()
        self.batcher = Batcher(limits, run.sizes, self.metrics)
        self.pictures = PictureThreads(limits)
        self.is_ready = False
        self._tokens = frozenset(map(_digest, tokens))
        self._loading = asyncio.Lock()
        self._explaining = asyncio.Lock()
        self.metrics.step.set(run.step)

    def allows(self, authorization: str) -> bool:
        """Whether a request with this header is answered."""
        kind, _, token = authorization.partition(" ")
        known = kind.lower() == "bearer" and _digest(token.strip()) in self._tokens
        return not self._tokens or known

    async def answer(self, pairs: Sequence[Pair]) -> tuple[int, list[Answers]]:
        """The step that answers, and the answers, before the deadline.

        Raises:
          RefusedRequest: too many pairs wait, a picture is too large, or the deadline has passed.
        """
        self.check_ready()
        classifier = self.run.classifier
        with self.batcher.admitted(len(pairs)):
            try:
                async with asyncio.timeout(self.limits.deadline):
                    read = await self.pictures.read(classifier.reader, pairs)
                    answers = await self.batcher.answer(classifier, read)
            except TimeoutError:
                raise too_late(self.limits.deadline) from None
        self.metrics.pairs.inc(len(pairs))
        return classifier.trained.step, answers

    async def read(self, classifier: Classifier, pairs: Sequence[Pair]) -> list[ReadPair]:
        """The pairs with their pictures read, for routes that do not share batches."""
        self.check_ready()
        return await self.pictures.read(classifier.reader, pairs)

    async def explained(self, pair: Pair) -> str:
        """The markup that explains the answers to a pair; one pair at a time."""
        self.check_ready()
        if self._explaining.locked():
            raise busy("another pair is being explained", 5)
        async with self._explaining:
            explainer = self.run.explainer
            (read,) = await self.read(explainer.classifier, [pair])
            seen = Pair(read.picture, read.text, read.note)

            def explain() -> str:
                (explanation,) = explainer.explain(["this pair"], [seen])
                return explained_pair(explanation, explainer.why_no_heat)

            return await self.batcher.compute(explain)

    async def load_newest(self) -> str:
        """Loads the newest checkpoint; returns a line on the outcome."""
        start = time.monotonic()
        async with self._loading:
            try:
                await asyncio.to_thread(self.run.load_newest)
            except (UserError, OSError, ValueError) as error:
                self.metrics.loads.labels("failed").inc()
                return f"step {self.run.step:,} goes on answering: {error}"
        self.metrics.loads.labels("loaded").inc()
        self.metrics.step.set(self.run.step)
        return f"step {self.run.step:,} answers, after {time.monotonic() - start:.1f} s of loading"

    def check_ready(self) -> None:
        """Refuses a request while programs are being compiled."""
        if not self.is_ready:
            raise busy("the programs are being compiled", 5)

    def close(self) -> None:
        """Lets all threads end."""
        self.batcher.close()
        self.pictures.close()


def unauthorized() -> RefusedRequest:
    """401: no token, or an unknown one."""
    headers = {"www-authenticate": "Bearer"}
    return RefusedRequest(
        401, "token", "send 'Authorization: Bearer TOKEN'", headers=headers, closes=True
    )


def _digest(token: str) -> bytes:
    """Comparing digests takes the same time however much of a token is right."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
