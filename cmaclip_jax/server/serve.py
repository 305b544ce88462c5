"""Runs a server: binds its address, compiles, answers, loads newer checkpoints, and stops."""

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.server.application import make_app
from cmaclip_jax.server.connection import make_server
from cmaclip_jax.server.served_run import RELOAD
from cmaclip_jax.server.service import Service

RELOAD_SECONDS = 1.0  # between two looks at the file `reload`


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    def bind(self) -> socket.socket:
        """A socket at this address. It does not listen yet, so no client can connect."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # With the protocol's name, asyncio sends every answer at once (TCP_NODELAY); without it, a
        # client may wait 40 ms for the second half of an answer.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.host, self.port))
        except (OSError, OverflowError) as error:
            bound.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"cannot listen at {self.host}:{self.port} ({reason}); change --port or --host"
            ) from error
        return bound


def serve(service: Service, bound: socket.socket, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=new_event_loop()) as runner:
        runner.run(_serve(service, bound, say))


def new_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes uvloop's event loops, which are faster; None, for asyncio's own, without uvloop."""
    try:
        import uvloop  # is not made for Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


class Parts:
    """The parts of a server that run beside its routes. None of them may die unseen.

    error: of the part that died. on_error: called then.
    """

    def __init__(self):
        self.error: BaseException | None = None
        self.on_error: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task] = set()

    def begin(self, work: Coroutine) -> None:
        """Begins a part."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Ends all parts."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.error = task.exception()
            self.on_error()


async def _serve(service: Service, bound: socket.socket, say: Callable[[str], None]) -> None:
    parts = Parts()

    async def load() -> None:
        say(await service.load_newest())

    deadline = service.limits.deadline
    server = make_server(make_app(service), deadline, lambda: parts.begin(load()))
    parts.on_error = server.stop
    parts.begin(service.batcher.run())
    parts.begin(_warm_up(service, say))
    parts.begin(_watch(service.run.workdir / RELOAD, load))
    host, port, *_ = bound.getsockname()
    shown = f"[{host}]" if ":" in host else host
    say(f"listening at http://{shown}:{port}")
    try:
        await server.serve(sockets=[bound])
    finally:
        parts.cancel()
        service.close()
    if parts.error:
        raise parts.error
    cut = len(server.server_state.tasks)
    say(f"stopped; {cut} requests were cut off" if cut else "stopped; every request was answered")


async def _warm_up(service: Service, say: Callable[[str], None]) -> None:
    """Compiles all sizes of a batch, then lets requests in."""
    start, sizes = time.monotonic(), service.run.sizes
    steps = service.run.warm_up()
    for number, size in enumerate(sizes, 1):
        seconds = await asyncio.to_thread(next, steps)
        compiled = f"compiled {number} of {len(sizes)} batch sizes"
        say(f"{compiled}: {size} pairs in {1000 * seconds:.1f} ms")
        service.batcher.times[size] = seconds
    service.is_ready = True
    say(f"ready after {time.monotonic() - start:.0f} s, step {service.run.step:,}")


async def _watch(path: Path, load: Callable) -> None:
    """Calls `load` whenever the file appears or changes."""

    def changed() -> float:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
        return 0.0

    seen = changed()
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        now = await asyncio.to_thread(changed)
        if now != seen and now:
            await load()
        seen = now
