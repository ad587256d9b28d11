"""The process in which a converter, or a runtime, works: ``python -m exportkit_formats.worker``, started by `child.call`."""

import os
import pickle
import pkgutil
import sys

from exportkit.errors import brief

from exportkit_formats.converting import Refusal


def main() -> None:
    """Read a call from stdin, write ``(value, refusal)`` to stdout; what is printed goes to stderr."""
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        answer = pkgutil.resolve_name(function)(**arguments), None
    except Refusal as refusal:
        answer = None, refusal.args
    except Exception as cause:
        answer = None, (f"fails: {brief(cause)}",)
    with reply:
        pickle.dump(answer, reply, protocol=5)


if __name__ == "__main__":
    main()
