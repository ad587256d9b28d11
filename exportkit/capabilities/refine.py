"""What a node can do, where its attributes and inputs show more than its op. Where they do not, the op's worst case holds."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from exportkit.capabilities import stablehlo
from exportkit.capabilities.bodies import MAIN, Body, data_inputs, op_of
from exportkit.capabilities.embedded import graphs_in, strings_of
from exportkit.capabilities.oplist import UNKNOWN, of_op
from exportkit.capabilities.origins import Origin, Origins
from exportkit.protos import NodeDef

Capabilities = frozenset[str]
NONE: Capabilities = frozenset()
READS, WRITES = "reads_host_files", "writes_host_files"
RESTORES = ("RestoreV2", "Restore", "RestoreSlice")
SAVES = ("SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints")
_MOST_NODES = 200  # that the names of a saver are made of
_SHARDED = ("ShardedFilename", "ShardedFilespec")
_DEBUG = ("DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary")
_CONSOLES = {b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)"}  # logging_ops.cc, kValidOutputStreams
_URLS: Mapping[str, Capabilities] = {
    "file": frozenset({WRITES}),
    "grpc": frozenset({"network"}),
    "memcbk": NONE,  # a callback in the process (debug_io_utils.cc)
}
_FILES = {  # op → its inputs with names of files
    "ReadFile": (0,),
    "InitializeTableFromTextFile": (1,),
    "InitializeTableFromTextFileV2": (1,),
    "GenerateVocabRemapping": (0, 1),
    "TextLineDataset": (0,),
    "TFRecordDataset": (0,),
    "TFRecordDatasetV2": (0,),
    "FixedLengthRecordDataset": (0,),
    "FixedLengthRecordDatasetV2": (0,),
    "CSVDataset": (0,),
    "CSVDatasetV2": (0,),
    "ExperimentalCSVDataset": (0,),
}


@dataclass(frozen=True)
class Surroundings:
    """What is around the nodes of a graph.

    Attributes:
        origins: finds where their inputs come from.
        assets: the nodes of the main body that hold the path of an asset.
        filename: the node of the main body that holds the prefix which a loader restores from; empty where there is no saver.
        saving: the ids of the nodes that run only to save or restore variables.
        idle: the ids of the nodes that nothing runs, in a graph of which it is known what is run.
    """

    origins: Origins
    assets: Collection[str]
    filename: str
    saving: Collection[int]
    idle: Collection[int] = ()


def capabilities(body: Body, node: NodeDef, around: Surroundings) -> Capabilities:
    """Return what a node can do."""
    found = of_op(node.op)
    look = _LOOKS.get(node.op)
    return look(body, node, around, found) if look is not None else found


def _print(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    stream = node.attr["output_stream"].s if "output_stream" in node.attr else b"stderr"
    return worst - {WRITES} if stream in _CONSOLES else worst


def _debug(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    urls = node.attr["debug_urls"].list.s if "debug_urls" in node.attr else ()
    schemes = [urlsplit(url.decode(errors="replace")).scheme for url in urls]
    return NONE.union(*(_URLS.get(scheme, worst) for scheme in schemes))


def _cache(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    names = around.origins.strings(body, node, 1)
    return worst - {READS, WRITES} if names is not None and not any(names) else worst


def _descriptor(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    source = node.attr["descriptor_source"].s if "descriptor_source" in node.attr else b"local://"
    return NONE if source in (b"", b"local://") or source.startswith(b"bytes://") else worst


def _vocabulary(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    file = node.attr["vocab_file"].s if "vocab_file" in node.attr else b""
    return worst if file else worst - {READS}


def _files(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    origins = [origin for index in _FILES[node.op] for origin in around.origins.of_input(body, node, index)]
    if origins and all(_is_main(origin, around.assets) for origin in origins):
        return worst - {READS} | {"reads_assets"}
    return worst


def _restore(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    if id(node) in around.saving:
        origins = around.origins.of_input(body, node, 0, _SHARDED)
        ordinary = bool(origins) and all(_is_main(origin, (around.filename,)) for origin in origins)
    else:
        ordinary = id(node) in around.idle and not _names_a_place(body, node)
    return frozenset({"restores_variables"}) if ordinary else worst


def _save(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    ordinary = id(node) in around.saving or (id(node) in around.idle and not _names_a_place(body, node))
    return frozenset({"saves_variables"}) if ordinary else worst


def _names_a_place(body: Body, node: NodeDef) -> bool:
    """Return whether a constant that the file names of a save or restore are made of is more than a bare file name.

    The savers of a second and third Saver, which nothing runs, have names such as ``model`` and ``_temp/part``.
    """
    names = list(data_inputs(node))[: 2 if node.op == "MergeV2Checkpoints" else 1]
    todo = [op_of(name) for name in names]
    seen: set[str] = set()
    while todo and len(seen) < _MOST_NODES:
        name = todo.pop()
        source = body.nodes.get(name)
        if name in seen or source is None:
            continue
        seen.add(name)
        todo += map(op_of, data_inputs(source))
        texts = strings_of(source.attr["value"].tensor) if source.op == "Const" else ()
        if any(text.startswith(b"/") or b":" in text or b".." in text for text in texts):
            return True
    return bool(todo)


def _from_graph(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    """Return nothing for a graph in a constant: what it can do is found in that constant."""
    graphs = around.origins.strings(body, node, 0)
    return worst - {UNKNOWN} if graphs and all(any(graphs_in(graph)) for graph in graphs) else worst


def _module(body: Body, node: NodeDef, around: Surroundings, worst: Capabilities) -> Capabilities:
    found = stablehlo.capabilities(node.attr["module"].s) if "module" in node.attr else None
    return worst if found is None else found


def _is_main(origin: Origin, names: Collection[str]) -> bool:
    return origin.node is not None and origin.body.name == MAIN and origin.node.name in names


_LOOKS: Mapping[str, Callable[[Body, NodeDef, Surroundings, Capabilities], Capabilities]] = {
    "PrintV2": _print,
    **dict.fromkeys(_DEBUG, _debug),
    **dict.fromkeys(("CacheDataset", "CacheDatasetV2"), _cache),
    **dict.fromkeys(("DecodeProtoV2", "EncodeProto"), _descriptor),
    "FixedUnigramCandidateSampler": _vocabulary,
    **dict.fromkeys(_FILES, _files),
    **dict.fromkeys(RESTORES, _restore),
    **dict.fromkeys(SAVES, _save),
    "DatasetFromGraph": _from_graph,
    "XlaCallModule": _module,
}
