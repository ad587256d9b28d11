"""The curl client of a version: a shell script with a request for each signature."""

import json
import shlex
from pathlib import Path
from string import Template
from urllib.parse import quote

from exportkit import files
from exportkit.clients import restexamples
from exportkit.clients.contract import Contract, Signature, Tensor
from exportkit.clients.names import file_name, shape_text

_TEMPLATES = Path(__file__).parent / "templates"


def generate(contract: Contract) -> dict[str, str]:
    """Return the script, by its name: ``MODEL.sh``."""
    text = _template("client").substitute(
        model=contract.model,
        version=contract.version,
        digest=contract.digest,
        script=f"{file_name(contract.model)}.sh",
        listed="\n".join(f"#   {key}: {_summary(one)}" for key, one in contract.signatures.items()),
        path=shlex.quote(quote(contract.model, safe="")),
        known="|".join(map(shlex.quote, contract.signatures)),
        requests="\n".join(_request(key, one) for key, one in contract.signatures.items()),
    )
    return {f"{file_name(contract.model)}.sh": text}


def _summary(signature: Signature) -> str:
    sides = (
        ", ".join(f"{alias} {_tensor(one)}" for alias, one in side.items()) for side in (signature.inputs, signature.outputs)
    )
    return f"{signature.method}, {' → '.join(sides)}"


def _tensor(one: Tensor) -> str:
    return f"{one.dtype} {shape_text(one.shape)}" + (f" (tf.Examples of {', '.join(one.features)})" if one.features else "")


def _request(key: str, signature: Signature) -> str:
    body = restexamples.request(key, signature)
    if body is None:
        why = restexamples.barred(signature) or "no sample of it is recorded"
        return _template("none").substitute(key=shlex.quote(key), why=shlex.quote(f"{key}: {why}"))
    text = json.dumps(body, ensure_ascii=False)
    return _template("request").substitute(key=shlex.quote(key), method=signature.method, body=text)


def _template(name: str) -> Template:
    return Template(files.read(_TEMPLATES / f"curl_{name}.txt", files.TEXT).decode())
