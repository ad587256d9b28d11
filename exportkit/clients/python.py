"""The Python client of a version: one file, made of `exportkit.clients.runtime` and of a typed method for each signature."""

import ast
import keyword
from collections.abc import Mapping
from pathlib import Path
from string import Template
from types import ModuleType

from exportkit import files
from exportkit.clients import runtime
from exportkit.clients.contract import Contract, Feature, Signature, Tensor
from exportkit.clients.names import class_names, file_name, identifiers, shape_text
from exportkit.clients.runtime import answers, calls, messages, metadata, rest, servers, tensors

PARTS: tuple[ModuleType, ...] = (messages, tensors, answers, calls, rest, metadata, servers)  # each uses only those before it
EXPORTED = ("AsyncClient", "Client", "ContractChanged", "RestClient", "ServerError", "Tls", "encode_examples")
_KEYWORDS = {*keyword.kwlist, *keyword.softkwlist, "self", "timeout", "model_version"}
_METHODS = {name for cls in (servers.GrpcServer, servers.AsyncGrpcServer, servers.RestServer) for name in dir(cls)}
_METHODS |= set(servers.Server.__dataclass_fields__)
_TOP_LEVEL = {name for part in PARTS for name in dir(part)} | {*EXPORTED, "SIGNATURES"}


def generate(contract: Contract) -> dict[str, str]:
    """Return the client's file, by its name: ``MODEL_client.py``."""
    methods = identifiers(contract.signatures, {*_KEYWORDS, *_METHODS})
    results = class_names(contract.signatures, _TOP_LEVEL)
    signatures = [_Signature(key, one, methods[key], results[key]) for key, one in contract.signatures.items()]
    text = _template("client").substitute(
        model=_prose(contract.model),
        model_literal=_literal(contract.model),
        version=contract.version,
        also=", and ml_dtypes for bfloat16" if _has_bfloat16(contract) else "",
        listed="\n".join(f"    {one.method}: {_prose(one.summary())}" for one in signatures),
        first=next(iter(methods.values()), "ask"),
        digest=contract.digest,
        exported="\n".join(f'    "{name}",' for name in sorted([*EXPORTED, *results.values()])),
        runtime="\n\n".join(map(_without_imports, PARTS)),
        signatures="\n".join(one.constant() for one in signatures),
        results="\n\n".join(one.result_class() for one in signatures),
        methods="\n".join(one.typed_method() for one in signatures).rstrip(),
        async_methods="\n".join(one.typed_method(asynchronous=True) for one in signatures).rstrip(),
    )
    return {f"{file_name(contract.model)}_client.py": text.rstrip() + "\n"}


class _Signature:
    """A signature as Python code."""

    def __init__(self, key: str, signature: Signature, method: str, result: str):
        self.key, self.signature, self.method, self.result = key, signature, method, result
        self.features: Mapping[str, Feature] = {}
        if signature.method != "predict":
            self.features = signature.inputs["inputs"].features
        self.given: Mapping[str, Tensor | Feature] = self.features or signature.inputs
        self.names = identifiers(self.given, _KEYWORDS)
        self.attributes = identifiers(signature.outputs, _KEYWORDS)

    def summary(self) -> str:
        """Return the signature on one line."""
        sides = ({name: self._stated(one) for name, one in self.given.items()}, self.signature.outputs)
        texts = (
            ", ".join(f"{name} {one.dtype} {shape_text(one.shape)}" for name, one in side.items()) or "nothing"
            for side in sides
        )
        return f"{self.signature.method}, {' → '.join(texts)}"

    def _stated(self, one: Tensor | Feature) -> Tensor:
        """Return a feature as the tensor of all rows that a caller gives."""
        return Tensor(one.dtype, (None, *one.shape), {}) if isinstance(one, Feature) else one

    def constant(self) -> str:
        """Return the entry of the table of signatures."""
        inputs, outputs, features = (
            [f"            {_literal(name)}: {_tensor(one)}," for name, one in side.items()]
            for side in (self.signature.inputs, self.signature.outputs, self.features)
        )
        lines = [f"    {_literal(self.key)}: Signature(", f"        {_literal(self.signature.method)},"]
        for rows in filter(None, (inputs or [""], outputs, features)):
            lines += ["        {", *filter(None, rows), "        },"] if rows != [""] else ["        {},"]
        return "\n".join([*lines, "    ),"])

    def result_class(self) -> str:
        """Return the class of the answers."""
        outputs = self.signature.outputs
        return _template("result").substitute(
            result=self.result,
            key=_prose(self.key),
            attributes="\n".join(f"        {self.attributes[alias]}: {_described(one)}" for alias, one in outputs.items()),
            fields="\n".join(f"    {self.attributes[alias]}: Array" for alias in outputs),
            version_field="model_version",
        )

    def typed_method(self, asynchronous: bool = False) -> str:
        """Return the method that asks the signature."""
        ordered = sorted(self.given, key=lambda name: not self._required(name))
        parameters = [f"{self.names[name]}: ArrayLike{'' if self._required(name) else ' | None = None'}," for name in ordered]
        return _template("method").substitute(
            async_="async " * asynchronous,
            await_="await " * asynchronous,
            method=self.method,
            result=self.result,
            key=_prose(self.key),
            key_literal=_literal(self.key),
            parameters="".join(f"        {parameter}\n" for parameter in parameters),
            arguments="\n".join(
                f"            {self.names[name]}: {_described(self._stated(self.given[name]))}" for name in ordered
            ),
            inputs="\n".join(f"                {_literal(name)}: {self.names[name]}," for name in self.given),
            outputs="\n".join(f"            answer.outputs[{_literal(alias)}]," for alias in self.signature.outputs),
        )

    def _required(self, name: str) -> bool:
        return not self.features or self.features[name].required


def _described(tensor: Tensor) -> str:
    return f"{'serialized tf.Examples, ' if tensor.features else ''}{tensor.dtype} {shape_text(tensor.shape)}."


def _tensor(one: Tensor | Feature) -> str:
    optional = ", required=False" if isinstance(one, Feature) and not one.required else ""
    return f"Tensor({_literal(one.dtype)}, {one.shape!r}{optional})"


def _literal(text: str) -> str:
    """Return a text as Python code, in double quotes where that needs no escapes."""
    return f'"{text}"' if '"' not in text and "\\" not in text and text.isascii() else ascii(text)


def _prose(text: str) -> str:
    """Return a text as it can stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def _has_bfloat16(contract: Contract) -> bool:
    tensors = [t for s in contract.signatures.values() for t in (*s.inputs.values(), *s.outputs.values())]
    return any(tensor.dtype == "bfloat16" for tensor in tensors)


def _without_imports(module: ModuleType) -> str:
    """Return a module of the runtime without its imports, under a comment that says what it is."""
    path = Path(str(module.__file__))
    source = files.read(path, files.TEXT).decode()
    tree = ast.parse(source)
    last = max(node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    title = (ast.get_docstring(tree) or "").splitlines()[0].rstrip(".")
    return f"# ---- {title} ----\n\n\n" + "\n".join(source.splitlines()[last:]).strip("\n") + "\n"


def _template(name: str) -> Template:
    path = Path(runtime.__path__[0]).parent / "templates" / f"python_{name}.txt"
    return Template(files.read(path, files.TEXT).decode())
