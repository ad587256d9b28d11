"""What a function may do in a process of its own."""

import os
import signal
import sys
import time

from exportkit.errors import BindingError, Problem, StepFailed


def add(a, b):
    print("printed")
    return a + b


def environment(name):
    return os.environ.get(name), os.getcwd(), sys.path[0]


def refuse():
    raise StepFailed(Problem("", "cannot do it", "do without"))


def refuse_twice():
    raise BindingError(Problem("bindings.x", "is wrong"), Problem("", "has no y"))


def fail():
    raise ValueError("two\nlines")


def make_a_lambda():
    return lambda: 1


def hang():
    time.sleep(60)


def crash():
    print("the reason", file=sys.stderr, flush=True)
    os.abort()


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    sys.exit("no")
