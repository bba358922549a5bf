"""`python -m onnxscope` is the command `onnxscope`: this is where both start."""

import signal

# Until there is something to end, an interruption ends this process like any other, without a traceback of imports.
_is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _is_ours:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from onnxscope.cli.main import main as _run  # noqa: E402


def main() -> None:
    """Run one command and exit."""
    if _is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _run()


if __name__ == "__main__":
    main()
