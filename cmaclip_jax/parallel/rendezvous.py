"""A rendezvous of all hosts before JAX connects them.

If a host is missing or the port is in use, JAX ends the process without a useful message. So the
hosts first connect to process 0 by plain sockets, at the address that JAX will use. If a host does
not connect in time, all others print its number and end.
"""

import contextlib
import socket
import time

from cmaclip_jax.errors import UserError

TRY_SECONDS = 3.0  # limit of one attempt to connect
PAUSE = 0.5  # between two attempts
GREETING = "cmaclip_jax"


def meet(address: str, number: int, count: int, seconds: float) -> int:
    """Waits until all `count` processes have connected; returns this one's number of attempts.

    Raises:
      UserError: a process did not connect in so many seconds, or process 0 cannot be reached.
    """
    if count == 1:
        return 1
    if number == 0:
        return _receive(address, count, seconds)
    return _visit(address, number, count, seconds)


def _receive(address: str, count: int, seconds: float) -> int:
    """Process 0: waits for the others, and tells them which hosts are missing."""
    deadline = time.monotonic() + seconds
    callers: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(address))
        while len(callers) < count - 1 and time.monotonic() < deadline:
            server.settimeout(max(deadline - time.monotonic(), 0.1))
            try:
                caller, (host, *_) = server.accept()
            except TimeoutError:
                break
            stack.enter_context(caller)
            number = _read_greeting(caller, host, count)
            if number in callers:
                raise UserError(
                    f"two processes say that they are host {number} of {count} (the second is at "
                    f"{host}); give every host its own K in --cluster=HOST:PORT,K/N"
                )
            if number is not None:
                callers[number] = caller
        missing = sorted(set(range(1, count)) - set(callers))
        for caller in callers.values():
            _answer(caller, ",".join(map(str, missing)))
    if missing:
        raise UserError(_missing(missing, count, address, seconds))
    return 1


def _visit(address: str, number: int, count: int, seconds: float) -> int:
    """Any other process: connects to process 0, and learns which hosts are missing."""
    deadline, tries = time.monotonic() + seconds, 0
    while True:
        tries += 1
        try:
            connection = socket.create_connection(_split(address), TRY_SECONDS)
            break
        except OSError as error:
            if time.monotonic() + PAUSE > deadline:
                raise UserError(_unreachable(address, tries, seconds, error)) from error
            time.sleep(PAUSE)
    with connection:
        connection.settimeout(seconds + TRY_SECONDS)  # process 0 may have started just now
        try:
            connection.sendall(f"{GREETING} {number}/{count}\n".encode())
            answer = _line(connection)
        except OSError as error:
            answer = f"no answer ({error})"
    greeting, _, missing = answer.rpartition(" ")
    if greeting != GREETING:
        raise UserError(
            f"what listens at {address} is no process 0 that waits for others (it says "
            f"{answer[:40]!r}); end what runs there, or name another port"
        )
    if missing != "none":
        raise UserError(_missing(list(map(int, missing.split(","))), count, address, seconds))
    return tries


def _listen(address: str) -> socket.socket:
    """Listens at the port of an address on all interfaces of this machine, as JAX does."""
    port = _split(address)[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"cannot listen at port {port}, where the other hosts look for this one "
            f"({error.strerror}); end what runs there, or name another port"
        ) from error


def _read_greeting(caller: socket.socket, host: str, count: int) -> int | None:
    """The number of the process that connected; None if it is not one of ours."""
    caller.settimeout(TRY_SECONDS)
    try:
        greeting, _, place = _line(caller).rpartition(" ")
        number, total = map(int, place.split("/"))
    except (OSError, ValueError):
        return None
    if greeting != GREETING:
        return None
    if total != count or not 0 < number < count:
        raise UserError(
            f"the process at {host} says that it is host {number} of {total}, and this is host 0 "
            f"of {count}; start all of them with the same N in --cluster=HOST:PORT,K/N"
        )
    return number


def _answer(caller: socket.socket, missing: str) -> None:
    """Sends the missing hosts. The caller closes the connection first, which frees the port."""
    with contextlib.suppress(OSError):
        caller.sendall(f"{GREETING} {missing or 'none'}\n".encode())
        caller.recv(1)


def _line(connection: socket.socket) -> str:
    """The first line that arrives, or a part of it."""
    received = b""
    while b"\n" not in received and len(received) < 200:
        more = connection.recv(200)
        if not more:
            break
        received += more
    return received.split(b"\n")[0].decode(errors="replace")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _missing(numbers: list[int], count: int, address: str, seconds: float) -> str:
    names = f"host{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {count}"
    return (
        f"{names} did not come to {address} in {seconds:g} s; start the command there too and at "
        "the same time, or read its messages there"
    )


def _unreachable(address: str, tries: int, seconds: float, error: OSError) -> str:
    port = _split(address)[1]
    if isinstance(error, socket.gaierror):
        why = "this machine knows no host of that name; name process 0 by its internal IP address"
    elif isinstance(error, ConnectionRefusedError):
        why = f"the machine is there, but nothing listens at port {port}; start process 0 there"
    else:
        why = (
            f"a firewall usually drops it; allow TCP port {port} between the hosts, and "
            "name process 0 by its internal IP address"
        )
    reason = error.strerror or str(error) or "no answer"
    return f"cannot reach process 0 at {address} ({reason}, {tries} tries in {seconds:g} s): {why}"
