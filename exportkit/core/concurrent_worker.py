"""Runs a SavedModel as `exportkit.core.worker` does, many requests at a time: TF_SessionRun may be called by many threads.

As a script, this is a process of `exportkit.server`: it loads a version once and answers each run when it is
done, in any order.
"""

import os
import pickle
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

import numpy as np

from exportkit.core.capi import StatusError, library
from exportkit.core.graph import Graph, Session

THREADS = 32  # runs at a time; TensorFlow's own threads compute them


def main() -> None:
    """Load the version that the first message on stdin describes, then do the run of each further one, until stdin ends.

    The first message is (LOAD, (directory, tags, config)), as of `exportkit.core.worker`, and its reply (None, error). The
    others are (number, feeds, fetches, serialized RunOptions), and their replies (number, values, error). An error is the name
    of a status code and TensorFlow's message.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the graph prints goes to stderr
    library()
    _answer(sys.stdin.buffer, replies)
    os._exit(0)  # the library's own shutdown would take 60 ms


def _answer(messages: IO[bytes], replies: IO[bytes]) -> None:
    _, (directory, tags, config) = pickle.load(messages)
    sending = threading.Lock()

    def reply(*content: Any) -> None:
        data = pickle.dumps(content, protocol=5)
        with sending:
            replies.write(data)
            replies.flush()

    try:
        session = Session.load(Graph(), directory, tags, config)
    except StatusError as error:
        reply(None, error.args)
        return
    reply(None, None)

    def run(number: int, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], options: bytes) -> None:
        try:
            reply(number, session.run(feeds, fetches, (), options), None)
        except StatusError as error:
            reply(number, None, error.args)
        except Exception as error:  # a thread must answer; memory that ran out is one request's error
            reply(number, None, ("INTERNAL", f"{type(error).__name__}: {error}"))

    with suppress(EOFError), ThreadPoolExecutor(THREADS) as pool:
        while True:
            pool.submit(run, *pickle.load(messages))
