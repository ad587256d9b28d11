"""Rules for bindings and signatures together, and those that TensorFlow Serving has for a signature.

The rules are those of predict_util.cc, classifier.cc and regressor.cc: a SignatureDef that breaks them loads, and then fails
every request.
"""

from collections.abc import Iterable, Iterator, Mapping

from exportkit.errors import Problem, did_you_mean
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.bindings import Binding, Bindings, ask, feeder_problems, kind_of, offered_by, targets_of
from exportkit.spec import Constant, Placeholder, Replacement, Signature, Tensor


def check(bindings: Bindings, signatures: Mapping[str, Signature | None]) -> Iterator[Problem]:
    """Report what is wrong between bindings and signatures, whatever the graph is."""
    offered = bindings.offers()
    for name, binding in bindings.items():
        where = f"bindings.{name}"
        if isinstance(binding, Operation):
            for ref in binding.refs():
                yield from _check_ref(f"{where}.{binding.kind}", ref, bindings, offered)
            yield from _check_circle(f"{where}.{binding.kind}", name, bindings, offered)
            yield from (problem.under(where) for problem in ask(name, binding, "check"))
        elif isinstance(binding, Feeder):
            yield from _check_targets(name, binding, bindings)
            yield from (problem.under(where) for problem in feeder_problems(name, binding, "check"))
    yield from _check_parsers(bindings, signatures)
    for key, signature in signatures.items():
        if signature is not None:
            yield from _check_signature(f"signatures.{key}", signature, bindings, offered)


def _check_ref(where: str, ref: str, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    """Check a reference to a value: it must exist, and be a tensor or computed from one."""
    binding = bindings.get(ref)
    if isinstance(binding, Feeder | Constant | Replacement):
        do = "name a tensor or a computed binding"
        yield Problem(where, f"'{ref}' is a {kind_of(binding)} and offers no values", do)
    elif isinstance(binding, Operation) and ref not in offered:
        parts = offered_by(ref, binding)
        number = {2: "two"}.get(len(parts), str(len(parts)))
        yield Problem(where, f"'{ref}' is a {binding.kind}, which has {number} parts", f"write {' or '.join(parts[:3])}")
    elif ref not in offered and not bindings.is_broken(ref):
        yield Problem(where, f"there is no binding '{ref}'", did_you_mean(ref, offered) or "declare it under bindings")


def _check_circle(where: str, name: str, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    """Report the shortest way from an operation back to itself."""
    paths, seen = [[name]], {name}
    while paths:
        path = paths.pop(0)
        binding = bindings[path[-1]]
        for after in (offered[ref] for ref in binding.refs() if ref in offered) if isinstance(binding, Operation) else ():
            if after == name:
                yield Problem(where, f"leads back to itself: {' → '.join([*path, name])}", "name a tensor binding")
                return
            if after not in seen:
                seen.add(after)
                paths.append([*path, after])


def _check_targets(name: str, binding: Feeder, bindings: Bindings) -> Iterator[Problem]:
    """Check that what a feeder feeds is there and can be fed."""
    feedable = [n for n, b in bindings.items() if isinstance(b, Tensor | Placeholder) or _is_feedable(b, binding)]
    where, first = f"bindings.{name}", dict[str, str]()
    for value, target in targets_of(name, binding).items():
        first.setdefault(target, value)
    for target, value in first.items():
        if target not in bindings:
            do = did_you_mean(target, feedable) or "declare it under bindings"
            yield Problem(f"{where}.{binding.place(value)}", f"there is no binding '{target}'", do)
        elif (fed := bindings[target]) is not None and target not in feedable:
            what = f"'{target}' is a {kind_of(fed)} and cannot be fed"
            yield Problem(f"{where}.{binding.place(value)}", what, "name a tensor or placeholder binding")


def _is_feedable(binding: Binding | None, by: Feeder) -> bool:
    return isinstance(binding, Feeder) and binding.feedable and not by.feedable


def _check_parsers(bindings: Bindings, signatures: Mapping[str, Signature | None]) -> Iterator[Problem]:
    """Check that a tensor is fed by the same feeder in all signatures: it has one value where it is not fed."""
    first: dict[str, str] = {}
    feeders = bindings.feeders(filter(None, signatures.values()))
    for name, feeder in feeders.items():
        for value, target in targets_of(name, feeder).items():
            if (other := first.setdefault(target, name)) != name:
                what = f"'{target}' is fed by the {feeders[other].kind} '{other}' already"
                place = feeder.place(value).removesuffix(".to")
                yield Problem(f"bindings.{name}.{place}", what, "use one of the two in all signatures")


def _check_signature(where: str, signature: Signature, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    for alias, ref in signature.inputs.items():
        place = f"{where}.inputs.{alias}"
        if ref not in bindings:
            yield Problem(place, f"there is no binding '{ref}'", did_you_mean(ref, bindings) or "declare it under bindings")
        elif not isinstance(binding := bindings[ref], Tensor | Placeholder | Feeder | None):
            yield Problem(place, f"'{ref}' is a {kind_of(binding)} and cannot be fed", "name a tensor or a placeholder")
    for alias, ref in signature.outputs.items():
        yield from _check_ref(f"{where}.outputs.{alias}", ref, bindings, offered)
    if not signature.outputs:
        yield Problem(f"{where}.outputs", "is empty", "name at least one output")
    yield from _check_fed_once(where, signature, bindings)
    yield from _check_aliases(where, signature)


def _check_fed_once(where: str, signature: Signature, bindings: Bindings) -> Iterator[Problem]:
    feeders: dict[str, str] = {}
    for alias, ref in signature.inputs.items():
        for name in bindings.fed_by(ref):
            if name in feeders:
                yield Problem(f"{where}.inputs.{alias}", f"'{name}' is fed by '{feeders[name]}' already", "feed it once")
            feeders.setdefault(name, alias)


def _check_aliases(where: str, signature: Signature) -> Iterator[Problem]:
    """Check the aliases that TensorFlow Serving requires for classify and regress."""
    if signature.method == "predict":
        return
    if set(signature.inputs) != {"inputs"}:
        what = f"{signature.method} takes exactly 'inputs', not {_listed(signature.inputs)}"
        yield Problem(f"{where}.inputs", what, "write {inputs: …} with a parse_example binding, or method: predict")
    allowed = {"classify": ("classes", "scores"), "regress": ("outputs",)}[signature.method]
    for alias in signature.outputs:
        if alias not in allowed:
            what = f"{signature.method} gives only {' and '.join(allowed)}"
            yield Problem(f"{where}.outputs.{alias}", what, "drop it, or write method: predict")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def unservable(signature: Signature, facts: Mapping[str, Facts]) -> Problem | None:
    """Return the first reason why TensorFlow Serving answers no request to a signature, as far as `facts` go."""
    return next(iter([*_check_aliases("", signature), *demands("", signature, facts)]), None)


def demands(where: str, signature: Signature, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Check the dtypes and ranks that TensorFlow Serving requires, as far as `facts` (binding reference → facts) go."""
    if signature.method == "predict":
        return
    for alias, ref, side in _both_sides(signature):
        known, (dtype, form, fits) = facts.get(ref, Facts()), _DEMANDS.get(alias, (None, "", None))
        wrong_dtype = dtype is not None and known.dtype not in (None, dtype)
        if wrong_dtype or (fits is not None and known.shape is not None and not fits(known.shape)):
            do = _dtype_advice(alias) if wrong_dtype else f"bind a tensor of shape {form}, or write method: predict"
            yield Problem(f"{where}.{side}.{alias}", f"'{ref}' is {known}, {signature.method} needs {dtype} {form}", do)


def _both_sides(signature: Signature) -> Iterator[tuple[str, str, str]]:
    yield from ((alias, ref, "inputs") for alias, ref in signature.inputs.items())
    yield from ((alias, ref, "outputs") for alias, ref in signature.outputs.items())


def _dtype_advice(alias: str) -> str:
    return {
        "inputs": "feed it a parse_example binding",
        "classes": "turn indices into labels with a lookup binding",
    }.get(alias, "bind a float32 tensor")


def _one_each(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None))


_DEMANDS = {  # alias → dtype, form in words, whether a shape is of it
    "inputs": ("string", "[N]", lambda shape: len(shape) == 1),
    "classes": ("string", "[N, k]", lambda shape: len(shape) == 2),
    "scores": ("float32", "[N, k]", lambda shape: len(shape) == 2),
    "outputs": ("float32", "[N] or [N, 1]", _one_each),
}


def computed(bindings: Mapping[str, Binding | None], facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Report what cannot be computed or fed, as far as `facts` go: what operations and feeders say about the tensors that
    they are computed from or feed."""
    for name, binding in bindings.items():
        if isinstance(binding, Operation) and not ask(name, binding, "check"):
            inputs = [facts.get(ref, Facts()) for ref in binding.refs()]
            yield from (problem.under(f"bindings.{name}") for problem in ask(name, binding, "problems", inputs))
        elif isinstance(binding, Feeder):
            yield from (problem.under(f"bindings.{name}") for problem in feeder_problems(name, binding, "problems", facts))
