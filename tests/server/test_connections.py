"""The command itself, over a socket: hostile requests, reloads under load, and the end."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from support.commands import environment, mistake
from support.server import pair_json, png

DEADLINE = 2.0
PAIR = json.dumps({"pairs": [pair_json(png(0), "a red hat")]}).encode()
HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


class Command:
    """`cmaclip serve` in a process of its own."""

    def __init__(self, workdir, log):
        flags = ["--port=0", "--batch=4", f"--deadline={DEADLINE}", "--body=0.1", "--pairs=8"]
        words = ["-m", "cmaclip_jax.main", "serve", f"--workdir={workdir}", *flags]
        self.workdir, self.log = workdir, log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words], stderr=file, env=environment()
            )
        self.port = int(self.wait_for(r"listening at http://127.0.0.1:(\d+)"))
        self.wait_for("(ready) after")

    def wait_for(self, pattern):
        """What the log says, as soon as it says it."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def predict(self, connection=None):
        """`(status, body)` of the answer to PAIR."""
        connection = connection or self.connect()
        connection.request("POST", "/v1/predict", PAIR, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def send(self, *parts, pause=0.0):
        """The raw answer to raw bytes; b'' if the connection is closed without one."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as raw:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    raw.sendall(part)
                    time.sleep(pause)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := raw.recv(65_536):
                    answer += part
            return answer


@pytest.fixture(scope="module")
def command(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    command = Command(shutil.copytree(finished_run, folder / "run"), folder / "log.txt")
    yield command
    if command.process.poll() is None:
        command.process.kill()


@pytest.fixture(scope="module")
def expected(command):
    status, body = command.predict()
    assert status == 200
    return body


def line(text):
    return text.encode() + b"\r\nhost: a\r\nconnection: close\r\n\r\n"


def post(*headers, body=b""):
    return HEAD + b"".join(h.encode() + b"\r\n" for h in headers) + b"\r\n" + body


def form(length, part):
    head = (
        "POST /v1/predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {length}\r\n\r\n"
    )
    return head.encode() + b"--x\r\ncontent-disposition: form-data; " + part


CLOSE = "connection: close"
HOSTILE = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"400"),
    "only line ends": (b"\r\n" * 50 + line("GET /nowhere HTTP/1.1"), b"404"),
    "no method": (line("/ HTTP/1.1"), b"400"),
    "unknown method": (line("FETCH / HTTP/1.1"), b"400"),
    "other method": (line("DELETE /v1/predict HTTP/1.1"), b"405"),
    "get": (line("GET /v1/predict HTTP/1.1"), b"405"),
    "other version": (line("GET / HTTP/9.9"), b"400"),
    "bytes of zero": (b"GET /\x00 HTTP/1.1\r\n\r\n", b"400"),
    "a path outside": (line("GET /../../../../etc/passwd HTTP/1.1"), b"404"),
    "a path outside the files": (line("GET /docs-files/../../../etc/passwd HTTP/1.1"), b"404"),
    "an escaped path": (line("GET /docs-files/%2e%2e/%2e%2e/core.py HTTP/1.1"), b"404"),
    "a doubly escaped path": (line("GET /docs-files/%252e%252e/core.py HTTP/1.1"), b"404"),
    "an absolute path": (line("GET /docs-files//etc/passwd HTTP/1.1"), b"404"),
    "a proxy request": (line("GET http://example.com/ HTTP/1.1"), b""),
    "connect": (line("CONNECT example.com:443 HTTP/1.1"), b"4"),
    "a long address": (line("GET /" + "a" * 200_000 + " HTTP/1.1"), b"431"),
    "a long header": (post("x: " + "a" * 200_000), b"431"),
    "many headers": (post(*(f"x{i}: {i}" for i in range(20_000))), b"431"),
    "a header without a colon": (post("nothing"), b"400"),
    "a header that never ends": (HEAD + b"x: " + b"a" * 1_000_000, b"431"),
    "two lengths": (post("content-length: 2", "content-length: 3", CLOSE, body=b"{}"), b"400"),
    "a negative length": (post("content-length: -1", CLOSE), b"400"),
    "no number as length": (post("content-length: ten", CLOSE), b"400"),
    "a huge length": (post("content-length: 99999999999999", CLOSE), b"413"),
    "a length past all numbers": (post("content-length: " + "9" * 40, CLOSE), b"400"),
    "length and chunks": (
        post("content-length: 5", "transfer-encoding: chunked", CLOSE, body=b"0\r\n\r\n"),
        b"400",
    ),
    "broken chunks": (post("transfer-encoding: chunked", CLOSE, body=b"zz\r\n{}\r\n"), b"400"),
    "endless chunks": (
        post(
            "transfer-encoding: chunked",
            CLOSE,
            body=b"10000\r\n" + b"a" * 65_536 + b"\r\n" + b"10000\r\n" + b"a" * 65_536 + b"\r\n",
        ),
        b"413",
    ),
    "no body": (post(CLOSE), b"400"),
    "an unknown coding": (
        post("content-length: 4", "content-encoding: gzip", CLOSE, body=b"\x1f\x8b00"),
        b"400",
    ),
    "depth": (post("content-length: 60000", CLOSE, body=b'{"a":' * 12_000), b"400"),
    "many keys": (
        post("content-length: 65007", CLOSE, body=b"{" + b'"a":1,' * 10_834 + b'"b":1}'[:2]),
        b"4",
    ),
    "no utf-8": (post("content-length: 4", CLOSE, body=b"\xff\xfe{}"), b"400"),
    "a number without end": (
        post("content-length: 50011", CLOSE, body=b'{"pairs": ' + b"9" * 50_000 + b"}"),
        b"4",
    ),
    "a type from elsewhere": (
        post("content-type: text/html", "content-length: 2", CLOSE, body=b"{}"),
        b"4",
    ),
    "a form without an end": (form(60, b'name="text"\r\n\r\nabcdefgh'), b"4"),
    "a form with a long name": (
        form(50_058, b'name="' + b"n" * 50_000 + b'"\r\n\r\nabc'),
        b"4",
    ),
    "upgrade": (
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n",
        b"",
    ),
}


def test_hostile_requests_are_refused_and_the_server_goes_on(command, expected):
    for name, (sent, status) in HOSTILE.items():
        start = time.monotonic()
        answer = command.send(sent)
        assert time.monotonic() - start < DEADLINE + 1, name
        assert answer.startswith(b"HTTP/1.1 " + status), (name, answer[:300])
        assert b"Traceback" not in answer, name
        assert b"root:" not in answer, name
        assert command.predict() == (200, expected), name


def test_slow_senders_are_given_up(command, expected):
    start = time.monotonic()
    senders = {
        "head": ([bytes([byte]) for byte in HEAD[:60]], 0.1, b"408"),
        "nothing": ([b""], 0.0, b""),
        "body": ([HEAD + b"content-length: 60\r\n\r\n", *[b"a"] * 60], 0.1, b"408"),
        "half a body": ([HEAD + b"content-length: 60\r\n\r\n", b"a"], 0.0, b"408"),
    }
    answers = {}

    def send(name, parts, pause):
        answers[name] = command.send(*parts, pause=pause)

    threads = [
        threading.Thread(target=send, args=(name, parts, pause))
        for name, (parts, pause, _) in senders.items()
    ]
    for thread in threads:
        thread.start()
    assert command.predict() == (200, expected)  # meanwhile
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 10
    for name, (_, _, status) in senders.items():
        assert answers[name][9:].startswith(status), (name, answers[name][:200])


def test_who_leaves_takes_nothing_along(command, expected):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", command.port)) as raw:
            raw.sendall(HEAD + f"content-length: {len(PAIR)}\r\n\r\n".encode() + PAIR)
    assert labels(command.predict()[1]) == labels(expected)  # it may share a batch with them


def labels(body):
    return [pair["answers"]["colour"]["label"] for pair in body["pairs"]]


class Clients:
    """Threads that ask without pause; `answers` are all that they got."""

    def __init__(self, command, count=6):
        self.command, self.answers, self.lost = command, [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self):
        while not self.stop.is_set():
            connection = self.command.connect()
            try:
                connection.connect()
            except ConnectionRefusedError:
                return  # the server accepts nobody any more
            try:
                while not self.stop.is_set():
                    self.answers.append(self.command.predict(connection))
                    if connection.sock is None:  # the server has said that it closes
                        break
            except Exception as error:
                self.lost.append(repr(error))
                return

    def join(self):
        for thread in self.threads:
            thread.join(60)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on Windows")
def test_checkpoints_are_loaded_without_losing_a_request(command, expected):
    clients = Clients(command, 3)
    for _ in range(5):
        command.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
    (command.workdir / "reload").touch()
    command.wait_for(r"(?s)((step 12 answers.*){2})")
    time.sleep(1.5)
    clients.stop.set()
    clients.join()
    assert not clients.lost
    assert len(clients.answers) > 20
    for status, body in clients.answers:
        assert status == 200
        assert labels(body) == labels(expected)


def test_sigterm_ends_it_with_every_request_answered(command):
    clients = Clients(command)
    while len(clients.answers) < 30:
        time.sleep(0.01)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(30) == 0
    clients.join()
    assert not clients.lost
    assert {status for status, _ in clients.answers} == {200}
    assert "every request was answered" in command.log.read_text()


def test_mistakes_end_in_one_line(finished_run, tmp_path, capsys):
    run = f"--workdir={finished_run}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "change --port" in mistake(capsys, "serve", run, f"--port={port}")
    assert "--batch has to be more" in mistake(capsys, "serve", run, "--batch=0")
    assert "cannot read --tokens" in mistake(capsys, "serve", run, f"--tokens={tmp_path}/none")
    (tmp_path / "empty").write_text("# a comment\n\n")
    assert "no token" in mistake(capsys, "serve", run, f"--tokens={tmp_path}/empty")
    (tmp_path / "two").write_text("one\ntwo words\n")
    assert "one word" in mistake(capsys, "serve", run, f"--tokens={tmp_path}/two")
    for flag in ("--deadline=nan", "--body=inf", "--megapixels=0"):
        assert "more than 0" in mistake(capsys, "serve", run, flag)
    assert "at most --queue" in mistake(capsys, "serve", run, "--queue=32")
    assert "change --port" in mistake(capsys, "serve", run, "--host=no.such.host.invalid")
    assert mistake(capsys, "serve", f"--workdir={tmp_path}/none", "--port=0")
