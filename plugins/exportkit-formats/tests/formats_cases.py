"""What may become of a process that works for a step."""

import os
import signal
import sys
import time

from exportkit_formats.converting import Refusal


def add(a, b):
    print("printed")
    return a + b


def refuse():
    raise Refusal("cannot do it", "do without")


def fail():
    raise ValueError("two\nlines")


def hang():
    time.sleep(60)


def crash():
    print("the reason", file=sys.stderr, flush=True)
    os.abort()


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    sys.exit("no")
