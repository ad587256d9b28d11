"""The memory that is left, as procfs and cgroupfs say it."""

import pytest

from exportkit.processes import memory

MEMINFO = "MemTotal:       24000 kB\nMemFree:          100 kB\nMemAvailable:   20000 kB\nSwapFree:        1000 kB\n"
KIB = 1024


@pytest.fixture
def machine(tmp_path):
    """Write the files of a machine, and return what is available there."""

    def make(own, files, meminfo=MEMINFO):
        texts = {"proc/meminfo": meminfo, "proc/self/cgroup": own, **{f"groups/{name}": text for name, text in files.items()}}
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory.available(tmp_path / "proc", tmp_path / "groups")

    return make


def test_without_a_limit_it_is_what_the_machine_has(machine):
    assert machine("0::/user.slice\n", {"user.slice/memory.max": "max\n"}) == 21000 * KIB


def group(path, names, most, used, prefix, **files):
    """Return the files of a control group, its numbers in KiB."""
    stat = "".join(f"{prefix}{name} {KIB * number}\n" for name, number in files.items())
    return {f"{path}{names[0]}": f"{KIB * most}\n", f"{path}{names[1]}": f"{KIB * used}\n", f"{path}memory.stat": stat}


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_a_group_above_limits_it_and_files_in_memory_count_as_free(machine):
    files = group("pods/", V2, 10000, 9000, "", anon=3000, active_file=2000, inactive_file=4000)
    assert machine("0::/pods/one\n", {"pods/one/memory.max": "max\n", **files}) == 7000 * KIB


def test_groups_of_version_1_count_what_is_below_them(machine):
    files = group("memory/box/", V1, 8000, 8000, "total_", active_file=1, inactive_file=1)
    assert machine("5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n", files) == 2 * KIB


def test_a_group_that_a_container_does_not_see_has_its_limit_at_the_root(machine):
    assert machine("0::/docker/0123\n", group("", V2, 500, 600, "", active_file=0, inactive_file=0)) == 0


@pytest.mark.parametrize("meminfo", ["", "MemFree: 100 kB\n", "MemAvailable: many kB\n"])
def test_what_cannot_be_read_is_not_known(machine, meminfo):
    assert machine("0::/\n", {}, meminfo) is None


def test_elsewhere_than_on_linux_it_is_not_known(tmp_path):
    assert memory.available(tmp_path) is None
