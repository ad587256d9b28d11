"""Add the ops that the installed TensorFlow has and ``exportkit/capabilities/ops.txt`` lacks.

    python scripts/update_op_list.py            adds a line with a question mark for each
    python scripts/update_op_list.py --print    writes TensorFlow's OpList to stdout, serialized, and changes nothing

An op with a question mark counts as unknown. Look at its kernel's source, not at its name: whether it opens files, talks to
hosts, calls back, keeps state; at its string attributes and inputs. Then correct the line and take the mark out. An op that
TensorFlow registers as stateful is never pure without a reason.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path


class _Buffer(ctypes.Structure):
    """`TF_Buffer` of TensorFlow's C API."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


def installed() -> bytes:
    """Return the OpList of the installed TensorFlow, serialized, without importing its Python."""
    directory = Path(importlib.util.find_spec("tensorflow").submodule_search_locations[0])
    library = ctypes.CDLL(str(directory / "libtensorflow_cc.so.2"))
    library.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
    buffer = library.TF_GetAllOpList().contents
    return ctypes.string_at(buffer.data, buffer.length)


def main() -> None:
    if "--print" in sys.argv:
        sys.stdout.buffer.write(installed())
        return
    from exportkit.protos import op_def_pb2

    path = Path(__file__).parents[1] / "exportkit" / "capabilities" / "ops.txt"
    lines = path.read_text().splitlines()
    head, known = [line for line in lines if line[0] == "#"], {line.partition(":")[0]: line for line in lines if line[0] != "#"}
    for op in op_def_pb2.OpList.FromString(installed()).op:
        known.setdefault(op.name, f"{op.name}: {'stateful' if op.is_stateful else 'pure'} ?")
    path.write_text("\n".join([*head, *(known[name] for name in sorted(known))]) + "\n")
    print(f"{len(known)} ops, {sum(line.endswith('?') for line in known.values())} of them to be looked at")


if __name__ == "__main__":
    main()
