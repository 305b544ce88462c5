"""The server at twice its capacity, then stopped, then with a checkpoint loaded again and again.

    python tests/benchmarks/serving_soak.py --workdir=RUN [--minutes=10] [--reloads=200]

Take a run that is slow enough that the model, and not these clients, is what limits the server.
Requests of one pair arrive at twice the rate that clients without pause have reached. Each has to
be answered, by 200 or 503. The script prints the memory of the server over time, the latencies of
what was accepted, and what SIGTERM and reloads have lost, which should be nothing.
"""

import argparse
import asyncio
import collections
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from serving_load import http_request, our_body, pictures

DEADLINE = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="a trained run")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--side", type=int, default=0, help="of a picture; 0: as the run reads it")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file
    request = http_request("/v1/predict", our_body(pictures(options), 1))
    server = Server(options.workdir)
    rate = 2 * asyncio.run(server.capacity(request))
    print(f"{rate:.0f} requests a second, twice the capacity", flush=True)
    asyncio.run(server.overload(request, rate, 60 * options.minutes))
    server.process.wait(60)
    print(f"after SIGTERM under load: status {server.process.returncode}")
    server = Server(options.workdir)
    asyncio.run(server.reloads(request, options.reloads))


class Server:
    """`cmaclip serve` in a process of its own."""

    def __init__(self, workdir: str):
        command = [sys.executable, "-m", "cmaclip_jax.main", "serve", f"--workdir={workdir}"]
        flags = ["--port=0", f"--deadline={DEADLINE}"]
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if "ready after" in line:
                self.port = int(re.search(r"listening at \S+:(\d+)", said)[1])
                return
        raise SystemExit(said)

    def memory(self) -> float:
        """The resident megabytes of the server."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    async def capacity(self, request: bytes) -> float:
        """Requests a second of 32 clients without pause, which fill a batch."""
        until, done = time.monotonic() + 20, 0

        async def client() -> None:
            nonlocal done
            connection = Connection(self.port)
            while time.monotonic() < until:
                status = await connection.ask(request)
                done += status == 200
            connection.close()

        await asyncio.gather(*(client() for _ in range(32)))
        return done / 20

    async def overload(self, request: bytes, rate: float, seconds: float) -> None:
        """Sends at a fixed rate; then SIGTERM while requests are under way."""
        answers: collections.Counter = collections.Counter()
        taken: list[float] = []
        free: list[Connection] = []
        tasks: set[asyncio.Task] = set()

        async def one() -> None:
            connection = free.pop() if free else Connection(self.port)
            start = time.monotonic()
            status = await connection.ask(request)
            answers[status] += 1
            if status == 200:
                taken.append(time.monotonic() - start)
            if connection.is_open:
                free.append(connection)

        start = time.monotonic()
        shown, next_at, warm = start, start, 0.0
        while time.monotonic() < start + seconds:
            next_at += 1 / rate
            await asyncio.sleep(max(next_at - time.monotonic(), 0))
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if time.monotonic() > shown + 30:
                shown = time.monotonic()
                warm = warm or (self.memory() if shown > start + 60 else 0.0)
                print(
                    f"{shown - start:5.0f} s  {self.memory():7.1f} MB  {dict(answers)}", flush=True
                )
        print(f"memory {warm:.1f} MB after a minute, {self.memory():.1f} MB at the end")
        half, last = np.percentile(taken, (50, 99))
        print(f"accepted: p50 {half:.2f} s, p99 {last:.2f} s of {DEADLINE} s", flush=True)
        pending = len(tasks)
        self.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        print(f"SIGTERM with {pending} requests under way; answers of all: {dict(answers)}")

    async def reloads(self, request: bytes, count: int) -> None:
        """Asks without pause while the newest checkpoint is loaded again and again."""
        answers: collections.Counter = collections.Counter()
        done = asyncio.Event()

        async def client() -> None:
            connection = Connection(self.port)
            while not done.is_set():
                answers[(await connection.ask(request), connection.body)] += 1

        async def reload() -> None:
            before = self.memory()
            for number in range(count):
                self.process.send_signal(signal.SIGHUP)
                line = await asyncio.to_thread(self.process.stderr.readline)
                assert " answers, after " in line, line
                if number == 9:
                    before = self.memory()
            done.set()
            print(f"{count} reloads; memory {before:.1f} MB after 10, {self.memory():.1f} MB")

        await asyncio.gather(reload(), *(client() for _ in range(8)))
        labels = {re.sub(rb"\d\.\d+(e-\d+)?", b"#", body) for _, body in answers}
        statuses = collections.Counter(status for status, _ in answers.elements())
        print(f"answers while loading: {dict(statuses)}; different, but for digits: {len(labels)}")
        self.process.terminate()
        self.process.wait()


class Connection:
    """One connection that is kept open; status 0 stands for a request without an answer."""

    def __init__(self, port: int):
        self.port = port
        self.body = b""
        self._streams = None

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def ask(self, request: bytes) -> int:
        if self._streams and self._streams[0].at_eof():
            self.close()  # the server has closed it, as any that is idle for 30 s
        try:
            self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            self.body = await reader.readexactly(length)
        except ConnectionRefusedError:
            return -1  # the server accepts nobody any more
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12])


if __name__ == "__main__":
    main()
