"""The C++ client of a version: a header with plain structs, its source, CMakeLists.txt, and a program that sends the samples.

The fixed part of each file is a template; here are the structs and methods that differ from model to model.
"""

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from string import Template

import numpy as np

from exportkit import files
from exportkit.checkpoint.tensorproto import dtype_of
from exportkit.clients.contract import Contract, Feature, Signature, Tensor
from exportkit.clients.names import class_names, file_name, identifiers, shape_text
from exportkit.errors import ConfigError, Problem
from exportkit.operations import parse_example
from exportkit.samples import tfexample

_TEMPLATES = Path(__file__).parent / "templates" / "cpp"
_TYPES = {  # dtype → C++ type, name in types.proto
    "float32": ("float", "DT_FLOAT"),
    "float64": ("double", "DT_DOUBLE"),
    "int8": ("std::int8_t", "DT_INT8"),
    "int16": ("std::int16_t", "DT_INT16"),
    "int32": ("std::int32_t", "DT_INT32"),
    "int64": ("std::int64_t", "DT_INT64"),
    "uint8": ("std::uint8_t", "DT_UINT8"),
    "uint16": ("std::uint16_t", "DT_UINT16"),
    "uint32": ("std::uint32_t", "DT_UINT32"),
    "uint64": ("std::uint64_t", "DT_UINT64"),
    "bool": ("Bool", "DT_BOOL"),
    "float16": ("Half", "DT_HALF"),
    "bfloat16": ("Bfloat16", "DT_BFLOAT16"),
    "complex64": ("std::complex<float>", "DT_COMPLEX64"),
    "complex128": ("std::complex<double>", "DT_COMPLEX128"),
    "string": ("std::string", "DT_STRING"),
}
_RESERVED_WORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl concept
    const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete do double
    dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
    not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires return short signed sizeof
    static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename union
    unsigned using virtual void volatile wchar_t while xor xor_eq

    EOF INT64_MAX INT64_MIN NULL assert errno linux stderr stdin stdout unix

    Array Ask Bfloat16 Bool Broken Client Connect Connection DataType Deadline Example Examples Failed Fill FillPairs FillTyped
    Get Half Holds Invalid Options Print SetSerialized Set Shape ShapeOf Status Tensor TensorProto Text View
    exportkit google grpc main std tensorflow
    connection_ deadline input output request response status
"""  # of the language, of macros in standard headers, and of the templates
_RESERVED = frozenset(_RESERVED_WORDS.split())
_MOST = 2000  # values of a sample that are written into the program


def generate(contract: Contract) -> dict[str, str]:
    """Return the files of the client, by their names relative to its directory.

    Raises:
        ConfigError: a tensor has a dtype that the client has no type for.
    """
    if problems := list(_unknown_dtypes(contract)):
        raise ConfigError(*problems)
    name = file_name(contract.model)
    name = f"{name}_model" if name in _RESERVED else name
    signatures = _signatures(contract)
    common = {"name": name, "namespace": name, "guard": name.upper(), "model": _prose(contract.model)}
    made = {
        f"{name}_client.h": _filled(
            "client.h.txt",
            **common,
            version=contract.version,
            digest=contract.digest[:12],
            model_literal=_text(contract.model.encode()),
            usage=signatures[0].usage(name) if signatures else "",
            structs="\n".join(one.structs() for one in signatures),
            methods="\n".join(one.declaration() for one in signatures),
        ),
        f"{name}_client.cc": _filled("client.cc.txt", **common, methods="".join(f"\n{one.definition()}" for one in signatures)),
        f"{name}_samples.cc": _filled(
            "samples.cc.txt",
            **common,
            functions="".join(f"\n{text}" for one in signatures if (text := one.program())),
            calls="\n".join(f"  failed |= Ask{one.method}(client);" for one in signatures if one.program()),
        ),
        "CMakeLists.txt": _filled("CMakeLists.txt", **common).replace("@{", "${"),  # CMake's variables are written as Python's
    }
    return made | {str(path.relative_to(_TEMPLATES)): _read(path) for path in sorted(_TEMPLATES.rglob("*.proto"))}


def _read(path: Path) -> str:
    return files.read(path, files.TEXT).decode()


def _filled(template: str, **values: object) -> str:
    return Template(_read(_TEMPLATES / template)).substitute(values)


def _unknown_dtypes(contract: Contract) -> Iterator[Problem]:
    for key, signature in contract.signatures.items():
        for alias, tensor in [*signature.inputs.items(), *signature.outputs.items()]:
            if tensor.dtype not in _TYPES:
                yield Problem(
                    f"{key}.{alias}", f"is {tensor.dtype}, for which the C++ client has no type", "leave out --lang cpp"
                )


def _signatures(contract: Contract) -> list["_Signature"]:
    """Return the signatures, each with a name of its own for its method and its two structs."""
    taken = set(_RESERVED)
    found = []
    for key, base in class_names(contract.signatures).items():
        candidates = (base if number == 1 else f"{base}_{number}" for number in range(1, len(contract.signatures) + 999))
        method = next(name for name in candidates if not taken & {name, f"Ask{name}", f"{name}Input", f"{name}Output"})
        taken |= {method, f"Ask{method}", f"{method}Input", f"{method}Output"}
        found.append(_Signature(key, contract.signatures[key], method))
    return found


class _Signature:
    """A signature as C++ code."""

    def __init__(self, key: str, signature: Signature, method: str):
        self.key, self.signature, self.method = key, signature, method
        own = _RESERVED | {method, f"{method}Input", f"{method}Output"}
        self._inputs = identifiers(signature.inputs, own)
        self._outputs = identifiers(signature.outputs, own | {"model_version"})
        self._features = {alias: identifiers(tensor.features, own) for alias, tensor in signature.inputs.items()}

    # The header

    def structs(self) -> str:
        """Return the structs of its inputs and outputs."""
        inputs = [line for alias, tensor in self.signature.inputs.items() for line in self._input(alias, tensor)]
        outputs = [
            f"  Array<{_type(tensor)}> {self._outputs[alias]};  // {_described(tensor)}"
            for alias, tensor in self.signature.outputs.items()
        ]
        version = "  std::int64_t model_version = 0;  // that answered"
        return "\n".join(
            [
                *(f'// The signature "{_prose(self.key)}" ({self.signature.method}).', f"struct {self.method}Input {{"),
                *(*inputs, "};", "", f"struct {self.method}Output {{", *outputs, version, "};", ""),
            ]
        )

    def _input(self, alias: str, tensor: Tensor) -> Iterator[str]:
        if not tensor.features:
            more = "serialized tf.Examples, " if self.signature.method != "predict" else ""
            yield f"  View<{_type(tensor)}> {self._inputs[alias]};  // {more}{_described(tensor)}"
            return
        yield "  struct {  // the features of tf.Examples, which all have as many rows"
        for name, feature in tensor.features.items():
            one = Tensor(feature.dtype, (None, *feature.shape), {})
            view = f"View<{_type(one)}>"
            type_name = view if feature.required else f"std::optional<{view}>"
            yield f"    {type_name} {self._features[alias][name]};  // {_described(one)}"
        yield f"  }} {self._inputs[alias]};"

    def usage(self, namespace: str) -> str:
        """Return a call of it, as a comment."""
        given = []
        for alias, tensor in self.signature.inputs.items():
            first = next(iter(self._features[alias].values()), "")
            given.append(f".{self._inputs[alias]} = {{{f'.{first} = {{values}}' if tensor.features else 'values'}}}")
        return "\n".join(
            [
                f'//   {namespace}::Client client({{.target = "localhost:8500"}});',
                f"//   {namespace}::{self.method}Output output;",
                f"//   {namespace}::Status status = client.{self.method}({{{', '.join(given)}}}, &output);",
            ]
        )

    def declaration(self) -> str:
        return f"  {self._head('')};\n"

    def _head(self, owner: str) -> str:
        deadline = "Deadline deadline" if owner else "Deadline deadline = {}"
        return f"Status {owner}{self.method}(const {self.method}Input& input, {self.method}Output* output, {deadline}) const"

    # The source

    def definition(self) -> str:
        """Return the method that asks it."""
        rpc = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}[self.signature.method]
        message = {"predict": "Predict", "classify": "Classification", "regress": "Regression"}[self.signature.method]
        lines = [f"  {message}Request request;", f"  {message}Response response;", "  Status status;"]
        for alias, tensor in self.signature.inputs.items():
            lines += self._set(alias, tensor)
        lines.append(
            f"  connection_->Call(&PredictionService::Stub::{rpc}, {_text(self.key.encode())}, deadline, &request, &response, "
            "&status);"
        )
        lines += [*self._get(), "  output->model_version = response.model_spec().version().value();", "  return status;"]
        return "\n".join([f"{self._head('Client::')} {{", *lines, "}", ""])

    def _set(self, alias: str, tensor: Tensor) -> Iterator[str]:
        name, literal, predict = self._inputs[alias], _text(alias.encode()), self.signature.method == "predict"
        if tensor.features:
            yield f"  Examples {name};"
            for key, feature in tensor.features.items():
                one = Tensor(feature.dtype, (None, *feature.shape), {})
                yield f"  {name}.Add({_stated(key, one)}, input.{name}.{self._features[alias][key]}, &status);"
            yield f"  {name}.MoveTo({f'{literal}, ' * predict}&request, &status);"
        elif predict:
            yield f"  Set({_stated(alias, tensor)}, input.{name}, &(*request.mutable_inputs())[{literal}], &status);"
        else:
            yield f"  SetSerialized(input.{name}, &request, &status);"

    def _get(self) -> Iterator[str]:
        if self.signature.method == "predict":
            for alias, tensor in self.signature.outputs.items():
                yield f"  Get({_stated(alias, tensor)}, response, &output->{self._outputs[alias]}, &status);"
        elif self.signature.method == "regress":
            yield "  Get(response, &output->outputs, &status);"
        else:
            given = (f"&output->{name}" if name in self.signature.outputs else "nullptr" for name in ("classes", "scores"))
            yield f"  Get(response, {', '.join(given)}, &status);"

    # The program that sends the samples

    def program(self) -> str:
        """Return the function that sends the sample; nothing where none is recorded, or a row of it is too long."""
        values = self._sample()
        if values is None:
            return ""
        lines = [f"int Ask{self.method}(const Client& client) {{", f"  {self.method}Input input;"]
        for number, (member, array) in enumerate(values.items()):
            sizes = ", ".join(map(str, array.shape))
            lines.append(f"  const std::vector<{_type_of(array)}> values_{number}{{{', '.join(_literals(array))}}};")
            lines.append(f"  input.{member} = View<{_type_of(array)}>{{values_{number}, {{{sizes}}}}};")
        literal = _text(self.key.encode())
        lines += [f"  {self.method}Output output;", f"  const Status status = client.{self.method}(input, &output);"]
        lines.append(f"  if (!status.ok()) return Failed({literal}, status);")
        for alias, name in self._outputs.items():
            lines.append(f"  Print({literal}, {_text(alias.encode())}, output.{name});")
        return "\n".join([*lines, "  return 0;", "}", ""])

    def _sample(self) -> dict[str, np.ndarray] | None:
        """Return member → values of the rows of the sample that are short enough to be written."""
        example = self.signature.example
        if example is None or not all(array.dtype.kind in "OSbiufcV" for array in example.inputs.values()):
            return None
        arrays: dict[str, np.ndarray] = {}
        for alias, tensor in self.signature.inputs.items():
            if not tensor.features:
                arrays[self._inputs[alias]] = example.inputs[alias]
                continue
            try:
                columns = _columns(example.inputs[alias], tensor.features)
            except ValueError:  # a manifest of somebody else records what are no such tf.Examples
                return None
            for name, column in columns.items():
                arrays[f"{self._inputs[alias]}.{self._features[alias][name]}"] = column
        if self.signature.by_rows and arrays:
            row = sum(prod(array.shape[1:]) for array in arrays.values())
            rows = _MOST // max(row, 1)
            arrays = {member: array[:rows] for member, array in arrays.items()}
            return arrays if rows else None
        return arrays if sum(array.size for array in arrays.values()) <= _MOST else None


def _columns(serialized: np.ndarray, features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    """Return feature → values of serialized tf.Examples; an optional feature only where every example has it."""
    found: dict[str, np.ndarray] = {}
    for name, feature in features.items():
        try:
            wanted = {name: parse_example.Feature(dtype=feature.dtype, shape=list(feature.shape))}
            found |= tfexample.decode(list(serialized.ravel()), wanted)
        except ValueError:
            if feature.required:
                raise
    return found


def _type(tensor: Tensor) -> str:
    return _TYPES[tensor.dtype][0]


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {shape_text(tensor.shape)}"


def _stated(alias: str, tensor: Tensor) -> str:
    """Return a tensor of the contract as the source states it."""
    shape = (
        "std::nullopt" if tensor.shape is None else f"Shape{{{', '.join(str(-1 if d is None else d) for d in tensor.shape)}}}"
    )
    return f"{{{_text(alias.encode())}, tensorflow::{_TYPES[tensor.dtype][1]}, {shape}}}"


def _type_of(array: np.ndarray) -> str:
    return _TYPES[dtype_of(array)][0]


def _literals(array: np.ndarray) -> Iterator[str]:
    """Yield the values of an array as C++ literals of exactly these values."""
    if array.dtype.kind in "OS":
        return (f"{_text(bytes(item))}s" for item in array.ravel())
    if array.dtype.name in ("float16", "bfloat16"):
        return map(str, array.ravel().view(np.uint16))
    if array.dtype.kind == "c":
        parts = array.ravel().view(array.real.dtype).reshape(-1, 2)
        return (f"{{{_number(real)}, {_number(imaginary)}}}" for real, imaginary in parts)
    return map(_number, array.ravel())


def _number(value: np.generic) -> str:
    if isinstance(value, np.floating):
        name = "float" if value.dtype == np.float32 else "double"
        if np.isnan(value):
            return f"std::numeric_limits<{name}>::quiet_NaN()"
        if np.isinf(value):
            return f"{'-' * bool(value < 0)}std::numeric_limits<{name}>::infinity()"
        return f"{value!s}{'F' * (name == 'float')}"
    number = int(value)  # type: ignore[call-overload]  # of an integer or a bool
    if number == -(1 << 63):
        return "INT64_MIN"
    return f"{number}{'ULL' * (number >= 1 << 63)}"


def _text(value: bytes) -> str:
    """Return bytes as a C++ string literal; an octal escape has three digits, so that what follows is no part of it."""

    def escaped(byte: int) -> str:
        return chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"

    return f'"{"".join(map(escaped, value))}"'


def _prose(text: str) -> str:
    """Return a text as it can stand in a comment: a backslash at its end would join the next line to it."""
    return re.sub(r'["\\]', "'", text)
