"""Batches are shared, full under load, and never mix what must not mix. A stub is the device."""

import asyncio
import threading
import time

import pytest

from cmaclip_jax.data.pairs import ReadPair
from cmaclip_jax.server.batcher import Batcher
from cmaclip_jax.server.limits import Limits, RefusedRequest
from cmaclip_jax.server.metrics import Metrics


class Device:
    """A classifier whose answer to a text is the text; `computed` lists its batches."""

    def __init__(self, name="a", fails=False):
        self.name, self.fails = name, fails
        self.computed, self.sizes = [], []
        self.free = threading.Event()
        self.free.set()
        self.reader = self

    def batch(self, pairs, rows):
        self.sizes.append(rows)
        return [pair.text for pair in pairs], [""] * len(pairs)

    def answer(self, texts, notes):
        self.computed.append(texts)
        self.free.wait(5)
        if self.fails:
            raise RuntimeError("the device is gone")
        return [f"{self.name}:{text}" for text in texts]


def read(*texts):
    return [ReadPair(None, text, "") for text in texts]


def run(test, **limits):
    """Runs a test with a batcher of the sizes 1, 2 and 4."""

    async def inside():
        batcher = Batcher(Limits(**limits), (1, 2, 4), Metrics())
        filling = asyncio.create_task(batcher.run())
        try:
            await test(batcher)
        finally:
            filling.cancel()
            batcher.close()

    asyncio.run(inside())


async def until(condition):
    """Waits for a condition."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def keep_busy(batcher, device):
    """The request that the device computes, until `device.free` is set."""
    device.free.clear()
    first = asyncio.create_task(batcher.answer(device, read("a")))
    await until(lambda: device.computed)
    return first


def test_requests_share_a_batch_and_get_their_own_answers():
    device = Device()

    async def test(batcher):
        asked = [batcher.answer(device, read(*texts)) for texts in ("a", "bc", "d")]
        assert await asyncio.gather(*asked) == [["a:a"], ["a:b", "a:c"], ["a:d"]]
        assert device.computed == [["a", "b", "c", "d"]]
        assert device.sizes == [4]

    run(test, wait=0.05)


def test_a_lone_pair_waits_no_longer_than_it_must():
    device = Device()

    async def test(batcher):
        start = time.monotonic()
        assert await batcher.answer(device, read("a")) == ["a:a"]
        assert 0.1 <= time.monotonic() - start < 2
        assert device.sizes == [1]

    run(test, wait=0.1)


def test_a_slow_batch_waits_longer_for_others():
    device = Device()

    async def test(batcher):
        batcher.times |= {1: 2.0, 2: 4.0, 4: 6.0}
        first = asyncio.create_task(batcher.answer(device, read("a")))
        await asyncio.sleep(0.05)  # 2 ms are over, a twentieth of 2 s is not
        await asyncio.gather(first, batcher.answer(device, read("b")))
        assert device.computed == [["a", "b"]]

    run(test, wait=0.002)


def test_a_part_of_a_batch_waits_while_the_device_computes():
    device = Device()

    async def test(batcher):
        first = await keep_busy(batcher, device)
        rest = [asyncio.create_task(batcher.answer(device, read(text))) for text in "bcd"]
        await asyncio.sleep(0.05)
        assert device.computed == [["a"]]  # these three are no full batch
        last = asyncio.create_task(batcher.answer(device, read(*"ef")))
        await until(lambda: len(device.computed) == 2)  # a full one begins beside the first
        device.free.set()
        await asyncio.gather(first, *rest, last)
        assert device.computed == [["a"], list("bcde"), ["f"]]
        assert last.result() == ["a:e", "a:f"]

    run(test, wait=0)


def test_all_pairs_of_a_request_are_answered_by_one_classifier():
    old, new = Device("old"), Device("new")

    async def test(batcher):
        asked = [batcher.answer(old, read(*"ab")), batcher.answer(new, read(*"cd"))]
        assert await asyncio.gather(*asked) == [["old:a", "old:b"], ["new:c", "new:d"]]

    run(test, wait=0.05)


def test_a_request_that_is_given_up_leaves_the_queue():
    device = Device()

    async def test(batcher):
        first = await keep_busy(batcher, device)
        dropped = asyncio.create_task(batcher.answer(device, read("b")))
        await asyncio.sleep(0.01)
        dropped.cancel()
        last = asyncio.create_task(batcher.answer(device, read("c")))
        await asyncio.sleep(0.01)
        device.free.set()
        assert (await first, await last) == (["a:a"], ["a:c"])
        assert device.computed == [["a"], ["c"]]

    run(test)


def test_an_error_of_the_device_reaches_its_requests_and_no_others():
    device, broken = Device(), Device(fails=True)

    async def test(batcher):
        asked = [batcher.answer(broken, read("a")), batcher.answer(device, read("b"))]
        failed, answered = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert answered == ["a:b"]

    run(test)


def test_the_queue_refuses_what_it_cannot_answer_in_time():
    async def test(batcher):
        with batcher.admitted(6):
            assert batcher.pending == 6
            with pytest.raises(RefusedRequest, match="queue is full") as full, batcher.admitted(3):
                pass
            batcher.times[4] = 10.0  # a batch of four; ten pairs would take 30 s
            with pytest.raises(RefusedRequest, match="wait") as late, batcher.admitted(2):
                pass
        assert batcher.pending == 0
        assert full.value.status == late.value.status == 503
        assert late.value.headers["retry-after"] == "20"
        with batcher.admitted(1):  # one that waits for nobody is let in, however slow the device
            pass

    run(test, queue=8, deadline=15)


def test_the_time_of_a_batch_is_measured():
    device = Device()

    async def test(batcher):
        await batcher.answer(device, read(*"ab"))
        assert set(batcher.times) == {2}
        await batcher.answer(device, read(*"abcd"))
        assert 0 < batcher.times[4] < 1
        batcher.times[4] = 1e-6
        device.free.clear()
        stalled = asyncio.create_task(batcher.answer(device, read(*"abcd")))
        await asyncio.sleep(0.1)
        device.free.set()
        await stalled
        assert batcher.times[4] < 2e-6  # one stall counts little

    run(test)
