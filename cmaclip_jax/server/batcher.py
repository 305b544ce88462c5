"""Dynamic batching: pairs of several requests share a batch on the device.

All methods but `_compute` run on the event loop, so they need no locks.

A full batch begins as soon as one of the device's two places is free: the host prepares one batch
while the device computes another. A batch that is not full begins only when the device is idle and
its oldest pair has waited for `wait` seconds, or for a twentieth of the time that the batch takes.
So a lone request is answered at once, and batches are full under load.
"""

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from cmaclip_jax.data.pairs import ReadPair
from cmaclip_jax.server.limits import Limits, busy, too_late
from cmaclip_jax.server.metrics import Metrics
from cmaclip_jax.serving.classifier import Answer, Classifier

PLACES = 2  # batches on the device at once
PATIENCE = 0.05  # how long a batch waits for more pairs, as a share of the time that it takes
SAFE = 0.8  # a request is refused if its answer is expected later than this share of the deadline
Answers = dict[str, Answer]


@dataclasses.dataclass(eq=False)
class Job:
    """The pairs of a request. `answers` is filled batch by batch; `done` then gets all of them.

    classifier: answers the whole job, even if a newer checkpoint is loaded in between.
    """

    classifier: Classifier
    done: asyncio.Future
    left: int
    answers: list[Answers | None]


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A pair in the queue: `place` is its place in the job."""

    job: Job
    place: int
    pair: ReadPair
    since: float


def fitting_size(sizes: Sequence[int], pairs: int) -> int:
    """The smallest size that holds so many pairs; the largest if none does.

    sizes: in rising order.
    """
    return next((size for size in sizes if size >= pairs), sizes[-1])


class Batcher:
    """Answers pairs in shared batches.

    sizes: the compiled sizes of a batch, in rising order.
    times: the seconds that a batch of each size takes, measured anew with every batch.
    pending: the pairs that have been admitted and have no answer yet.
    """

    def __init__(self, limits: Limits, sizes: Sequence[int], metrics: Metrics):
        self.limits, self.sizes, self.metrics = limits, tuple(sizes), metrics
        self.times: dict[int, float] = {}
        self.pending = 0
        self._queue: collections.deque[Waiting] = collections.deque()
        self._computing = 0
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(PLACES, thread_name_prefix="device")

    @contextlib.contextmanager
    def admitted(self, pairs: int) -> Iterator[None]:
        """Counts the pairs of a request as pending; refuses them if that would be too many."""
        expected = self._expected(self.pending + pairs)
        if self.pending + pairs > self.limits.queue:
            raise busy(f"the queue is full ({self.pending:,} pairs)", expected)
        if self.pending and expected > SAFE * self.limits.deadline:
            raise busy(f"{self.pending:,} pairs wait, which takes {expected:.1f} s", expected)
        self.pending += pairs
        self.metrics.pending.set(self.pending)
        try:
            yield
        finally:
            self.pending -= pairs
            self.metrics.pending.set(self.pending)

    def _expected(self, pairs: int) -> float:
        """The seconds that so many pairs take."""
        batches, rest = divmod(pairs, self.sizes[-1])
        last = self.times.get(fitting_size(self.sizes, rest), 0.0) if rest else 0.0
        return batches * self.times.get(self.sizes[-1], 0.0) + last

    async def answer(self, classifier: Classifier, pairs: Sequence[ReadPair]) -> list[Answers]:
        """The answers to the pairs of a request. If it is cancelled, its pairs leave the queue."""
        now = time.monotonic()
        done = asyncio.get_running_loop().create_future()
        job = Job(classifier, done, len(pairs), [None] * len(pairs))
        self._queue.extend(Waiting(job, place, pair, now) for place, pair in enumerate(pairs))
        self._changed.set()
        return await job.done

    async def run(self) -> None:
        """Fills batches and gives them to the device until it is cancelled."""
        while True:
            batch = self._next_batch()
            if batch:
                self._start(batch)
                continue
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._time_to_wait()):
                    await self._changed.wait()

    def close(self) -> None:
        """Begins no further batch."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _next_batch(self) -> list[Waiting]:
        """The pairs of the next batch; empty if there is nothing to begin yet."""
        while self._queue and self._queue[0].job.done.done():  # cancelled, or failed
            self._queue.popleft()
        if not self._queue or self._computing == PLACES:
            return []
        is_full = len(self._queue) >= self.sizes[-1]
        is_due = time.monotonic() >= self._due()
        if not (is_full or (is_due and not self._computing)):
            return []
        return self._take()

    def _due(self) -> float:
        """When a batch that is not full may begin: it waits for a small share of its own time."""
        seconds = self.times.get(fitting_size(self.sizes, len(self._queue)), 0.0)
        return self._queue[0].since + max(self.limits.wait, PATIENCE * seconds)

    def _take(self) -> list[Waiting]:
        """Takes pairs from the queue, all for the same classifier, until the batch is full."""
        taken, classifier = [], self._queue[0].job.classifier
        while self._queue and len(taken) < self.sizes[-1]:
            if self._queue[0].job.classifier is not classifier:
                break
            waiting = self._queue.popleft()
            if not waiting.job.done.done():
                taken.append(waiting)
        return taken

    def _time_to_wait(self) -> float | None:
        """The seconds until a batch that is not full may begin; None if only an event can tell."""
        if not self._queue or self._computing:
            return None
        return max(self._due() - time.monotonic(), 0)

    def _start(self, batch: list[Waiting]) -> None:
        self._computing += 1
        loop = asyncio.get_running_loop()
        computed = loop.run_in_executor(self._threads, self._compute, batch)
        computed.add_done_callback(lambda future: self._finish(batch, future))

    def _compute(self, batch: Sequence[Waiting]) -> tuple[list[Answers], float]:
        """The answers, and the seconds that they took; in a thread."""
        start = time.perf_counter()
        classifier = batch[0].job.classifier
        pairs = [waiting.pair for waiting in batch]
        answers = classifier.answer(
            *classifier.reader.batch(pairs, fitting_size(self.sizes, len(pairs)))
        )
        return answers, time.perf_counter() - start

    def _finish(self, batch: Sequence[Waiting], computed: asyncio.Future) -> None:
        """Gives the answers of a batch to its jobs."""
        alone = self._computing == 1
        self._computing -= 1
        self._changed.set()
        if computed.cancelled() or computed.exception():
            error = too_late(0) if computed.cancelled() else computed.exception()
            for waiting in batch:
                if not waiting.job.done.done():
                    waiting.job.done.set_exception(error)
            return
        answers, seconds = computed.result()
        self.metrics.batches.observe(len(batch))
        # Of two batches at once, each takes twice its time.
        self._measured(fitting_size(self.sizes, len(batch)), seconds if alone else seconds / PLACES)
        for waiting, answer in zip(batch, answers, strict=True):
            job = waiting.job
            job.answers[waiting.place] = answer
            job.left -= 1
            if not job.left and not job.done.done():
                job.done.set_result(job.answers)

    def _measured(self, size: int, seconds: float) -> None:
        """Moves the time of a batch towards a new measurement; one stall counts little."""
        before = self.times.get(size, seconds)
        self.times[size] = 0.9 * before + 0.1 * min(seconds, 3 * before)
