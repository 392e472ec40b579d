"""The command that fork_server.py returns: pass everything to the server, and end as the forked process does."""

import json
import os
import signal
import socket
import sys
from types import FrameType

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    """Run a script: the arguments are the path of its server's socket, and the arguments of the script."""
    folder = os.getcwd()  # noqa: PTH109 - the import of pathlib takes time
    request = {"words": sys.argv[2:], "environment": dict(os.environ), "folder": folder, "umask": os.umask(0)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(sys.argv[1])
        content = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(server, [content], [0, 1, 2])
        server.sendall(content[sent:])

        def forward(number: int, _: "FrameType | None") -> None:
            server.send(bytes([number]))

        for number in _FORWARDED:
            signal.signal(number, forward)
        for stream in (0, 1, 2):  # only the forked process holds them, so their other ends notice when it closes them
            os.close(stream)
        code = int(server.recv(16))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
