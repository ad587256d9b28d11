"""The worker of `exportkit.processes.call_apart`: calls one function and replies with its value or its error."""

import os
import pickle
import pkgutil
import sys
import tempfile
import traceback
from typing import Any

RETURNED = "returned"  # with the pickled value
REFUSED = "refused"  # with the pickled ExportKitError
FAILED = "failed"  # with a text: a verb phrase


def main() -> None:
    """Read a module path, a directory for temporary files and a pickled call from stdin; write a reply to stdout.

    What the function prints goes to stderr. The process ends at once: threads that the function left are not waited for.
    """
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path, temporary, call = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    os.environ["TMPDIR"] = temporary
    tempfile.tempdir = None  # read TMPDIR again
    starter = os.getpid()
    outcome = _outcome(call)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.getpid() != starter:  # a copy that the function forked has returned from it, too
        os._exit(1)
    with reply:
        pickle.dump(outcome, reply, protocol=5)
    os._exit(0)


def _outcome(call: bytes) -> tuple[str, Any]:
    from exportkit.errors import ExportKitError, brief  # importable now that sys.path is the caller's

    try:
        function, arguments, keywords = pickle.loads(call)
        if isinstance(function, str):
            function = pkgutil.resolve_name(function)
        return RETURNED, pickle.dumps(function(*arguments, **keywords), protocol=5)
    except ExportKitError as error:
        return REFUSED, pickle.dumps(error)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return FAILED, f"raised {brief(error)}"
