"""`python -S -E -I forked_client.py SOCKET ARGUMENTS...` behaves as `python ARGUMENTS...`; see forked.py."""

import json
import os
import signal
import socket
import sys

OPTIONS = "-I", "-P", "-B", "-u"
FORWARDED = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2


def ask(address: str, arguments: list[str]) -> int:
    """Let the server run `python ARGUMENTS...`, and return its status: below zero for a signal that ended it."""
    data = json.dumps([arguments, sys.orig_argv, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        socket.send_fds(server, [len(data).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(data)
        answer = server.recv(8)
    if not answer:
        sys.exit("the server of forks has ended")
    return int.from_bytes(answer, "big", signed=True)


def can_be_asked(arguments: list[str]) -> bool:
    """Tell whether the server understands the arguments and can be given the standard streams, since all are open."""
    what = next((each for each in arguments if each not in OPTIONS), "-")
    try:
        return (what in ("-c", "-m") or what[0] != "-") and all(os.fstat(stream) for stream in range(3))
    except OSError:
        return False


def main() -> None:
    address, *arguments = sys.argv[1:]
    if not can_be_asked(arguments):
        os.execv(sys.executable, [sys.executable, *arguments])
    status = ask(address, arguments)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
