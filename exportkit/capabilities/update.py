"""Add the ops that the installed TensorFlow has and ``ops.txt`` lacks: ``python -m exportkit.capabilities.update``.

Each is added with a question mark and counts as unknown. Look at its kernel's source, not at its name: whether it opens files,
talks to hosts, calls back, keeps state; at its string attributes and inputs. Then correct the line and take the mark out. An op
that TensorFlow registers as stateful is never pure without a reason.
"""

import sys
from pathlib import Path

from exportkit.core.capi import op_list
from exportkit.protos import OpList

LIST = Path(__file__).with_name("ops.txt")


def main() -> None:
    """Update the list in place, and print how many of its ops are to be looked at."""
    lines = LIST.read_text().splitlines()
    head, known = [line for line in lines if line[0] == "#"], {line.partition(":")[0]: line for line in lines if line[0] != "#"}
    for op in OpList.FromString(op_list()).op:
        known.setdefault(op.name, f"{op.name}: {'stateful' if op.is_stateful else 'pure'} ?")
    LIST.write_text("\n".join([*head, *(known[name] for name in sorted(known))]) + "\n")
    sys.stdout.write(f"{len(known)} ops, {sum(line.endswith('?') for line in known.values())} of them to be looked at\n")


if __name__ == "__main__":
    main()
