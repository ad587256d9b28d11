"""Plans as bytes, for the process that carries them out."""

import pytest
import toys

from exportkit.cli import packed_plan
from exportkit.cli.packed_plan import ROOM, Shelf, pack, unpack
from exportkit.planning.plan import plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("packed")
    return plan(toys.config(toys.saved(directory, toys.dense), directory))


@pytest.fixture(autouse=True)
def _no_file():
    yield
    packed_plan.set_file(None)


def refused():
    raise AssertionError("it was planned again")


def test_a_plan_comes_back_as_it_was_with_its_checkpoints_open(planned):
    again = unpack(pack(planned), refused)
    assert again == planned
    (before,), (after,) = planned.resolved_sources(), again.resolved_sources()
    assert (after.digest, sorted(after.bundle.entries)) == (before.digest, sorted(before.bundle.entries))


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_what_is_no_plan_is_planned_again(content):
    assert unpack(content, lambda: "planned again") == "planned again"


def test_a_part_of_a_plan_is_planned_again(planned):
    assert unpack(pack(planned)[:-1], lambda: "planned again") == "planned again"


def test_a_plan_whose_checkpoint_is_gone_is_made_again(tmp_path):
    prefix = toys.saved(tmp_path, toys.dense)
    content = pack(plan(toys.config(prefix, tmp_path)))
    for path in tmp_path.rglob("*.index"):
        path.unlink()
    assert unpack(content, lambda: "planned again") == "planned again"


def test_a_job_finds_its_own_plan(planned, tmp_path):
    shelf = Shelf.of(tmp_path, 2)
    shelf.put(1, planned)
    packed_plan.set_file(shelf.file(1))
    assert packed_plan.read() == pack(planned)
    packed_plan.set_file(shelf.file(0))
    assert packed_plan.read() == b""
    packed_plan.set_file(None)
    assert packed_plan.read() == b""


def test_what_was_prepared_comes_back_on_the_same_graph_and_checkpoint(planned):
    again = unpack(pack(planned), refused)
    (source,), (part,) = again.resolved_sources(), again.prepared.parts.values()
    assert part.model.graph.meta is source.preview.meta_graph
    assert part.model.bundle is source.bundle is not None
    assert {bundle for bundle, _ in again.prepared.sources.values()} == {source.bundle}
    (before,) = planned.prepared.parts.values()
    assert part.pruned == before.pruned
    assert (part.wiring, part.facts) == (before.wiring, before.facts)
    assert (again.prepared.audits, again.prepared.coverage) == (planned.prepared.audits, planned.prepared.coverage)


def test_a_plan_may_come_without_what_was_prepared(planned):
    again = unpack(pack(planned, prepared=False), refused)
    assert (again, again.prepared) == (planned, None)


def test_a_plan_that_is_too_large_is_not_kept(planned, tmp_path):
    whole, bare = len(pack(planned)), pack(planned, prepared=False)
    Shelf(tmp_path, len(bare) - 1).put(0, planned)
    Shelf(tmp_path, whole - 1).put(1, planned)
    Shelf(tmp_path, whole).put(2, planned)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"1.plan": len(bare), "2.plan": whole}
    assert Shelf.of(tmp_path, 64).most == ROOM // 64 == 4 << 20
