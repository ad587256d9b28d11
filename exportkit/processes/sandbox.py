"""What a worker that runs somebody else's graph may reach: the files that it needs, and no network.

Linux lets an ordinary user give up rights for good: Landlock for files (since 5.13), seccomp for sockets. Both hold for the
calling thread and for every thread and process that it starts later, so a worker enters before TensorFlow has started any.
Elsewhere, or where the kernel or a container refuses, the worker runs without, and `enter` returns why.

Imports the standard library alone, since a worker in a fresh interpreter does. Numbers and structures are those of
linux/landlock.h, linux/seccomp.h and linux/filter.h.
"""

import ctypes
import importlib.util
import os
import pickle
import platform
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

OFF = "EXPORTKIT_SANDBOX"  # =off: for an installation whose files lie where `installation` does not look

_REFUSED = (
    "a process that runs a graph may open only the version, the checkpoint and the assets; EXPORTKIT_SANDBOX=off lifts that"
)

_RUN, _WRITE, _READ, _LIST, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OF_FILES = _RUN | _WRITE | _READ | _TRUNCATE
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # Landlock ABI → the file accesses that it can deny
_TCP = 0b11  # bind and connect, from ABI 4 on
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
_ONLY_VERSION, _BENEATH = 1, 1

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # the latter: EPERM
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # → AUDIT_ARCH, the number of socket(2)
_IO_URING_SETUP = 425  # a ring opens sockets without the system call
_X32 = 0x40000000

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/gnu/store", "/sys"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/nsswitch.conf", "/etc/os-release"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems", "/proc/devices"),
    *("/proc/driver/nvidia", "/proc/sys/vm", "/proc/sys/kernel"),
)
_OWN = ("cmdline", "maps", "status", "stat", "statm", "limits", "cgroup", "mountinfo", "auxv")  # environ may hold secrets
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPUS = ("nvidia*", "nvidia-caps", "dri", "kfd")
_SETTINGS = ("KERAS_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")  # places of files that no worker may open
_PACKAGES = ("tensorflow", "numpy", "ml_dtypes", "exportkit")


@dataclass(frozen=True)
class Sandbox:
    """What a worker needs beside Python, TensorFlow and a directory for its temporary files.

    Attributes:
        reads: files and directories; of a directory all that lies below it.
        links: symbolic link to be made → the file that it leads to. The worker opens it first, so its path may be one that no
            sandbox lets through, as that of another process's descriptor.
        writes: directories that it may write to, beside that for its temporary files.
    """

    reads: Iterable[str | os.PathLike[str]]
    links: Mapping[str, str] = field(default_factory=dict)
    writes: Iterable[str | os.PathLike[str]] = ()

    def message(self, scratch: Path) -> dict[str, Any]:
        """Return it as plain data, as `enter` takes it.

        Args:
            scratch: the directory for the worker's temporary files.
        """
        return {
            "reads": [*map(os.path.abspath, self.reads), *installation()],
            "scratch": str(scratch),
            "links": dict(self.links),
            "writes": [*map(os.path.abspath, self.writes)],
            "off": os.environ.get(OFF) == "off",
        }


@cache
def installation() -> tuple[str, ...]:
    """Return where Python, TensorFlow and the system's libraries lie; not the rest of sys.path, which may hold anything."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__), sys.executable]
    libraries = filter(os.path.isabs, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    found = (*python, *libraries, *_SYSTEM, *_package_places())
    return tuple(dict.fromkeys(path for path in map(os.path.realpath, found) if path != "/"))


def _package_places() -> Iterator[str]:
    """Yield the directories of what workers import; of an installed one its site-packages, which hold what it needs itself."""
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            continue
        package = Path(os.path.realpath(spec.origin)).parent
        yield str(package)
        if name != "exportkit":
            yield from {str(package.parent), str(Path(spec.origin).parent.parent)}


def enter(sandbox: Mapping[str, Any]) -> str:
    """Give up all files but those of `sandbox`, and all network, in this thread and all that it starts, for good.

    Args:
        sandbox: what `Sandbox.message` returned.

    Returns:
        What was not given up, and why: ``files: …; network: …``. Empty: everything was.
    """
    os.environ.update(TMPDIR=sandbox["scratch"], HOME=sandbox["scratch"])  # libraries look for settings in HOME
    for name in _SETTINGS:
        os.environ.pop(name, None)
    tempfile.tempdir = None  # read TMPDIR again
    for link, target in sandbox["links"].items():
        _link(link, target)
    if sandbox["off"]:
        return f"{OFF}=off"
    if sys.platform != "linux":
        return f"{platform.system()} has no such means for an ordinary user"
    refused = []
    for what, give_up in (("files", _give_up_files), ("network", _give_up_network)):
        try:
            give_up(sandbox)
        except OSError as error:
            refused.append(f"{what}: {error.strerror}")
    return "; ".join(refused)


def begin() -> None:
    """Begin a worker: read its sandbox from stdin, None for none; enter it, and write what `enter` returns to stdout."""
    sandbox = pickle.load(sys.stdin.buffer)
    if sandbox is not None:
        os.write(1, pickle.dumps(enter(sandbox)))


def explained(text: str) -> str:
    """Return a worker's error, with the reason if a file was refused to it."""
    return f"{text} ({_REFUSED})" if "Permission denied" in text else text


def _link(link: str, target: str) -> None:
    """Make a link to a file that this process holds open: Landlock forbids the way through another process's descriptors."""
    os.makedirs(os.path.dirname(link), exist_ok=True)
    held = f"/proc/self/fd/{os.open(target, os.O_RDONLY)}"
    os.symlink(held if os.path.exists(held) else target, link)


def _give_up_files(sandbox: Mapping[str, Any]) -> None:
    """Raises OSError: the kernel has no Landlock, or does not let this process use it."""
    version = _system_call(_CREATE_RULESET, None, 0, _ONLY_VERSION, missing="the kernel has no Landlock")
    handled = _ALL[min(version, 3)]
    attributes = struct.pack("=QQ", handled, _TCP) if version >= 4 else struct.pack("=Q", handled)
    ruleset = _system_call(_CREATE_RULESET, attributes, len(attributes), 0, missing="Landlock is refused")
    try:
        for path, wanted in _rules(sandbox, handled):
            _allow(ruleset, path, wanted)
        _no_new_privileges()
        _system_call(_RESTRICT_SELF, ruleset, 0, missing="Landlock is refused")
    finally:
        os.close(ruleset)


def _rules(sandbox: Mapping[str, Any], handled: int) -> Iterator[tuple[str, int]]:
    """Yield the paths with what may be done there and below."""
    for path in [*sandbox["reads"], *(f"/proc/self/{name}" for name in _OWN)]:
        yield path, _RUN | _READ | _LIST
    for path in [sandbox["scratch"], *sandbox["writes"]]:
        yield path, handled & ~_RUN
    gpus = (path for pattern in _GPUS for path in Path("/dev").glob(pattern))
    for path in [*(f"/dev/{name}" for name in _DEVICES), *gpus]:
        yield str(path), _WRITE | _READ | _LIST


def _allow(ruleset: int, path: str, wanted: int) -> None:
    """Add a rule for a path; none where there is no such file.

    A file in /proc stays open: the rule is about an inode, and the kernel would make another one when it is short of memory.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            wanted &= _OF_FILES
        rule = struct.pack("=Qi", wanted, place)
        _system_call(_ADD_RULE, ruleset, _BENEATH, rule, 0, missing="Landlock is refused")
    finally:
        if not path.startswith("/proc/"):
            os.close(place)


def _give_up_network(_: Mapping[str, Any]) -> None:
    """Have socket(2) fail with EPERM. Raises OSError: seccomp is not there, or not for this machine."""
    if platform.machine() not in _MACHINES:
        raise OSError(0, f"no system call numbers of {platform.machine()} are known")
    machine, socket = _MACHINES[platform.machine()]
    program = [
        _load(4),  # seccomp_data.arch
        _jump_unless_equal(machine, 5),
        _load(0),  # seccomp_data.nr
        _jump_if_equal(socket, 3),
        _jump_if_equal(_IO_URING_SETUP, 2),
        _jump_if_at_least(_X32, 1),
        _return(_ALLOW),
        _return(_REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("@HP", len(program), ctypes.addressof(code))
    _no_new_privileges()
    _control(_SET_SECCOMP, _FILTER, ctypes.c_char_p(head))


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)  # BPF_LD | BPF_W | BPF_ABS


def _jump_if_equal(value: int, steps: int) -> bytes:
    return struct.pack("=HBBI", 0x15, steps, 0, value)  # BPF_JMP | BPF_JEQ | BPF_K


def _jump_unless_equal(value: int, steps: int) -> bytes:
    return struct.pack("=HBBI", 0x15, 0, steps, value)


def _jump_if_at_least(value: int, steps: int) -> bytes:
    return struct.pack("=HBBI", 0x35, steps, 0, value)  # BPF_JMP | BPF_JGE | BPF_K


def _return(value: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, value)  # BPF_RET | BPF_K


def _no_new_privileges() -> None:
    """Keep what this process starts from gaining rights by a set-user-ID file: an ordinary user may not enter otherwise."""
    _control(_SET_NO_NEW_PRIVS, 1, None)


def _control(option: int, value: int, data: ctypes.c_char_p | None) -> None:
    zero = ctypes.c_ulong(0)
    if _libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), data, zero, zero):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp is refused ({os.strerror(number).lower()})")


def _system_call(number: int, *arguments: Any, missing: str) -> int:
    """Make a system call for which there is no function in the C library. Raises OSError with the text `missing`."""
    result = _libc().syscall(ctypes.c_long(number), *map(_argument, arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{missing} ({os.strerror(code).lower()})")
    return result


def _argument(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
