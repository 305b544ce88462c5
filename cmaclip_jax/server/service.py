"""The state that all routes of the server share: the run, the queue, the limits, the counters."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cmaclip_jax.data.pairs import Pair, ReadPair
from cmaclip_jax.errors import first_line
from cmaclip_jax.report.pair_section import explained_pair
from cmaclip_jax.server.batcher import Answers, Batcher
from cmaclip_jax.server.limits import Limits, RefusedRequest, busy
from cmaclip_jax.server.metrics import Metrics
from cmaclip_jax.server.pictures import PictureThreads
from cmaclip_jax.server.served_run import ServedRun
from cmaclip_jax.serving.classifier import Classifier

Result = TypeVar("Result")
BODIES = 16  # requests of the largest size that the server holds at once


class Service:
    """The state of one server.

    name: of the model, in the Open Inference Protocol.
    tokens: the bearer tokens. Every request needs one of them; if there are none, it needs none.
    is_ready: whether all sizes of a batch are compiled.
    """

    def __init__(self, run: ServedRun, limits: Limits, name: str, tokens: Iterable[str] = ()):
        self.run, self.limits, self.name = run, limits, name
        self.metrics = Metrics()
        self.batcher = Batcher(limits, run.sizes, self.metrics)
        self.pictures = PictureThreads(limits)
        self.is_ready = False
        self.received = 0  # bytes of the requests that have no answer yet
        self._tokens = frozenset(map(_digest, tokens))
        self._loading = asyncio.Lock()
        self._explaining = asyncio.Lock()
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._tasks: set[asyncio.Task] = set()
        self.metrics.step.set(run.step)

    def allows(self, authorization: str) -> bool:
        """Whether a request with this header is answered."""
        kind, _, token = authorization.partition(" ")
        known = kind.lower() == "bearer" and _digest(token.strip()) in self._tokens
        return not self._tokens or known

    def receive(self, size: int) -> None:
        """Counts bytes of a request's body; refuses them if all requests together hold too many."""
        self.received += size
        if self.received > BODIES * self.limits.body:
            raise busy("the server holds as many bytes of requests as it may", 1)

    async def answer(self, pairs: Sequence[Pair]) -> tuple[int, list[Answers]]:
        """The step that answers, and the answers.

        Raises:
          RefusedRequest: too many pairs wait, or a picture is too large.
        """
        self.check_ready()
        classifier = self.run.classifier
        with self.batcher.admitted(len(pairs)):
            read = await self.pictures.read(classifier.reader, pairs)
            answers = await self.batcher.answer(classifier, read)
        self.metrics.pairs.inc(len(pairs))
        return classifier.trained.step, answers

    async def aside(
        self, pairs: Sequence[Pair], function: Callable[[Classifier, list[ReadPair]], Result]
    ) -> Result:
        """Calls a function with the read pairs, in the one thread for work beside the batches."""
        self.check_ready()
        classifier = self.run.classifier

        async def work() -> Result:
            with self.batcher.admitted(len(pairs)):
                read = await self.pictures.read(classifier.reader, pairs)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._aside, function, classifier, read)

        return await self._to_its_end(work())

    async def explained(self, pair: Pair) -> str:
        """The markup that explains the answers to a pair; one pair at a time."""
        if self._explaining.locked():
            raise busy("another pair is being explained", 5)
        explainer = self.run.explainer

        def explain(_: Classifier, read: list[ReadPair]) -> str:
            seen = Pair(read[0].picture, read[0].text, read[0].note)
            (explanation,) = explainer.explain(["this pair"], [seen])
            return explained_pair(explanation, explainer.why_no_heat)

        async def work() -> str:
            async with self._explaining:
                return await self.aside([pair], explain)

        return await self._to_its_end(work())

    async def _to_its_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of the work. If the request is given up, the work still goes on to its end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def load_newest(self) -> str:
        """Loads the newest checkpoint; returns a line on the outcome."""
        start = time.monotonic()
        async with self._loading:
            try:
                await asyncio.to_thread(self.run.load_newest)
            except Exception as error:  # the old checkpoint can answer after any error
                self.metrics.loads.labels("failed").inc()
                return f"step {self.run.step:,} goes on answering: {first_line(error)}"
        self.metrics.loads.labels("loaded").inc()
        self.metrics.step.set(self.run.step)
        return f"step {self.run.step:,} answers, after {time.monotonic() - start:.1f} s of loading"

    def check_ready(self) -> None:
        """Refuses a request while programs are being compiled."""
        if not self.is_ready:
            raise busy("the programs are being compiled", 5)

    def close(self) -> None:
        """Begins no further work."""
        self._aside.shutdown(wait=False, cancel_futures=True)
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
