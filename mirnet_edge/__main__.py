"""``python -m mirnet_edge``, and the console script."""

import os
import signal


def _quit(number: int, _: object) -> None:
    os._exit(128 + number)


def run() -> None:
    """Run the command line. Ctrl-C while the modules of a command load ends the process silently:
    nothing has begun, and wherever it came, Python would print the traceback of an import."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:  # a shell ignores it for what it starts in the background
        signal.signal(signal.SIGINT, _quit)
    from mirnet_edge.cli import run

    run(heeded)


if __name__ == "__main__":
    run()
