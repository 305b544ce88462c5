"""The server under load: pairs a second and latencies, beside PyTorch behind LitServe.

    python tests/benchmarks/serving_load.py --workdir=RUN [--clients=1,8,64] [--rival]

Clients in processes of their own ask for pairs without pause, on this machine, so they share its
cores with the server. Every line is one number of clients. `share` is the part of what the model
alone answers on the same cores: full batches of decoded pictures, with nothing around it. `--rival`
needs `pip install litserve`: the same network in PyTorch, with the same decoding and batching.
"""

import argparse
import base64
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
BATCH = 32
HEAD = "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {size}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="a trained run")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--pairs", type=int, default=1, help="in a request")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--side", type=int, default=0, help="of a picture; 0: as the run reads it")
    parser.add_argument("--rival", action="store_true")
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    alone = model_alone(options)
    print(f"the model alone: {alone:.1f} pairs/s in batches of {options.batch}", flush=True)
    servers = {"ours": (ours, "/v1/predict", our_body)}
    if options.rival:
        servers["PyTorch behind LitServe"] = (rival, "/predict", rival_body)
    for _ in range(options.rounds):
        for name, (start, path, body) in servers.items():
            process, port = start(options)
            try:
                request = http_request(path, body(pictures(options), options.pairs))
                for count in counts:
                    print(measured(name, port, request, count, options, alone), flush=True)
            finally:
                stop(process)


def model_alone(options) -> float:
    """Pairs a second of the run itself, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_model_alone, (options.workdir, options.batch, options.seconds))


def _model_alone(workdir: str, size: int, seconds: float) -> float:
    from cmaclip_jax import process

    process.prepare()
    import cmaclip_jax as cma

    model = cma.load(workdir)
    batch = model.trained.encode.empty(size)
    batch["has_image"][:] = batch["has_text"][:] = True
    batch["weight"][:] = 1
    rates = []
    model.outcome(batch, size)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        model.outcome(batch, size)
        rates.append(size / (time.perf_counter() - start))
    return float(np.median(rates))


def pictures(options) -> list[bytes]:
    """Smooth random pictures as JPEG files."""
    from PIL import Image

    side = options.side or run_sizes(options.workdir)[0]
    random, files = np.random.default_rng(0), []
    for _ in range(16):
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        file = io.BytesIO()
        small.resize((side, side), Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
        files.append(file.getvalue())
    return files


def run_sizes(workdir: str) -> tuple[int, int]:
    """The picture size and the text length of a run."""
    import cmaclip_jax as cma

    encode = cma.load(workdir).trained.encode
    return encode.image_size, encode.text_length


def our_body(files: list[bytes], pairs: int) -> bytes:
    encoded = [base64.b64encode(file).decode() for file in files]
    sent = [{"image": encoded[i % 16], "text": "a red mug with stripes"} for i in range(pairs)]
    return json.dumps({"pairs": sent}).encode()


def rival_body(files: list[bytes], pairs: int) -> bytes:
    """LitServe batches whole requests, so each has one pair."""
    encoded = base64.b64encode(files[0]).decode()
    return json.dumps({"image": encoded, "text": "a red mug with stripes"}).encode()


def http_request(path: str, body: bytes) -> bytes:
    return f"{HEAD.format(path=path, size=len(body))}\r\n\r\n".encode() + body


def ours(options) -> tuple[subprocess.Popen, int]:
    """Starts our server; returns its process and its port when it is ready."""
    command = [sys.executable, "-m", "cmaclip_jax.main", "serve", f"--workdir={options.workdir}"]
    limits = ["--port=0", f"--batch={options.batch}", "--deadline=60"]
    process = subprocess.Popen([*command, *limits], stderr=subprocess.PIPE, text=True)
    said = ""
    for line in process.stderr:
        said += line
        if "ready after" in line:
            return process, int(re.search(r"listening at \S+:(\d+)", said)[1])
    raise SystemExit(said)


def rival(options) -> tuple[subprocess.Popen, int]:
    """Starts PyTorch behind LitServe; returns its process and its port when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(__file__).with_name("plain_torch_server.py")
    words = [options.workdir, str(port), str(options.batch)]
    process = subprocess.Popen([sys.executable, script, *words], start_new_session=True)
    while process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                raw.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                if b" 200 " in raw.recv(200):
                    return process, port
        except OSError:
            time.sleep(0.5)
    raise SystemExit("LitServe has ended")


def stop(process: subprocess.Popen) -> None:
    """Ends a server with all its processes."""
    if os.getpgid(process.pid) != os.getpgid(0):
        os.killpg(process.pid, signal.SIGKILL)
    process.terminate()
    process.wait()


def measured(name: str, port: int, request: bytes, count: int, options, alone: float) -> str:
    """A line on the server with so many clients."""
    context = multiprocessing.get_context("spawn")
    processes = min(count, 4)
    shares = [count // processes + (number < count % processes) for number in range(processes)]
    with context.Pool(processes) as pool:
        parts = pool.starmap(ask, [(port, request, share, options.seconds) for share in shares])
    seconds = np.concatenate([np.array(part[0]) for part in parts])
    refused = sum(part[1] for part in parts)
    pairs = options.pairs if name == "ours" else 1
    rate = len(seconds) * pairs / options.seconds
    half, most, last = (1000 * np.percentile(seconds, at) for at in (50, 95, 99))
    return (
        f"{name:24} {count:3} clients {rate:8.1f} pairs/s  share {rate / alone:.2f}  "
        f"p50 {half:.0f}  p95 {most:.0f}  p99 {last:.0f} ms  refused {refused}"
    )


def ask(port: int, request: bytes, clients: int, seconds: float) -> tuple[list[float], int]:
    """The seconds of every request that is answered in the measured time, which begins late.

    It begins after the first answers, so that it holds as many answers as the server gives.
    """
    import asyncio

    taken: list[float] = []
    refused = [0]
    begin = time.perf_counter() + max(2.0, seconds / 4)
    end = begin + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            await reader.readexactly(length)
            now = time.perf_counter()
            if not head.startswith(b"HTTP/1.1 200"):
                refused[0] += 1
            elif begin <= now <= end:
                taken.append(now - start)
        writer.close()

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    asyncio.run(all_clients())
    return taken, refused[0]


if __name__ == "__main__":
    main()
