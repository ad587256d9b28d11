"""Which meta graph is tried: the one that a server loads."""

from exportkit.serving.tried_samples import loaded


def test_a_server_loads_the_meta_graph_tagged_serve():
    assert loaded({"gpu": ["serve", "gpu"], "cpu": ["serve"]}) == "cpu"


def test_the_first_one_is_tried_where_none_is_tagged_serve():
    assert loaded({"gpu": ["serve", "gpu"], "tpu": ["serve", "tpu"]}) == "gpu"
