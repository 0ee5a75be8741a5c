"""Two processes in two sandboxes: a worker, which runs a completion, and a judge, which tests it.

The judge runs the tests on proxies: a call of the completed function is sent to the worker, and the answer is data
(JSON), from which the judge builds values of exact builtin types. No code of the completion runs where the assertions
are, and the tests are never sent to the worker.

A message is eight bytes of length followed by that many bytes of JSON. Scalars represent themselves; everything else is
a list that begins with a kind: ``["tuple", 1, 2]``, ``["int", "0xff"]``, ``["object", 3, "f"]`` for a reference.
"""

import ast
import builtins
import contextlib
import json
import os
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn

LONGEST = 2**24  # bytes of a message
SHORT = 2**53  # smaller integers represent themselves: Python limits the decimal digits that it parses
CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytearray": bytearray,
    "range": lambda bounds: range(*bounds),
    "iterator": iter,
}
MUTABLE = (list, dict, set, bytearray)
Refer = Callable[[Any], list[Any]]


def encode(value: Any, refer: Refer) -> Any:
    """A value as JSON. Instances of subclasses become their builtin base, iterators are exhausted.

    Args:
        value: anything.
        refer: returns the reference for an object that is not data.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < SHORT else ["int", hex(value)]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", *(encode(item, refer) for pair in value.items() for item in pair)]
    if isinstance(value, range):
        return ["range", *(encode(bound, refer) for bound in (value.start, value.stop, value.step))]
    for kind in ("list", "tuple", "set", "frozenset", "bytearray"):
        if isinstance(value, getattr(builtins, kind)):
            return [kind, *(encode(item, refer) for item in value)]
    if hasattr(type(value), "__next__") or isinstance(value, type({}.keys()) | type({}.values()) | type({}.items())):
        return ["iterator", *(encode(item, refer) for item in value)]
    return refer(value)


def decode(encoded: Any, find: Callable[[Any], Any]) -> Any:
    """The encoded value, only of exact builtin types; ``find`` resolves references."""
    if not isinstance(encoded, list):
        return encoded
    kind, *items = encoded
    if kind == "object":
        return find(items)
    if kind == "int":
        return int(items[0], 16)
    if kind == "complex":
        return complex(items[0], items[1])
    if kind == "bytes":
        return bytes.fromhex(items[0])
    values = [decode(item, find) for item in items]
    if kind == "dict":
        return dict(zip(values[::2], values[1::2], strict=True))
    return CONTAINERS[kind](values)


class Line:
    """Messages over two pipes."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")

    def send(self, message: Any) -> None:
        text = json.dumps(message).encode()
        self.outgoing.write(len(text).to_bytes(8, "big") + text)
        self.outgoing.flush()

    def receive(self) -> Any:
        """The next message.

        Raises:
            EOFError: there is none.
            ValueError: it is too long, or not JSON.
        """
        size = int.from_bytes(self.incoming.read(8), "big")
        if not 0 < size <= LONGEST:
            raise EOFError if not size else ValueError("the message is too long")
        return json.loads(self.incoming.read(size))


class Worker:
    """Holds the objects that a program defined, and answers requests about them."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.objects: list[Any] = []

    def refer(self, value: Any) -> list[Any]:
        self.objects.append(value)
        return ["object", len(self.objects) - 1, str(getattr(value, "__name__", "object"))]

    def find(self, reference: Any) -> Any:
        return self.objects[reference[0]]

    def serve(self) -> NoReturn:
        """Receives a program and names, runs it, sends those of the names that it defines, then answers calls."""
        program, wanted = self.line.receive()
        module = sys.modules["__main__"] = ModuleType("__main__")
        names = module.__dict__
        self.answer(lambda: exec(compile(program, "program", "exec"), names))
        self.line.send({name: encode(names[name], self.refer) for name in wanted if name in names})
        while True:
            target, attribute, positional, named = self.line.receive()
            arguments = [decode(argument, self.find) for argument in positional]
            named = {name: decode(argument, self.find) for name, argument in named.items()}
            self.answer(lambda: self.work(self.objects[target], attribute, arguments, named))  # noqa: B023 (called at once)

    def work(self, target: Any, attribute: str | None, arguments: list[Any], named: dict[str, Any]) -> Any:
        """The result of a call or attribute, and the new values of mutable arguments."""
        if attribute is not None:
            return [encode(getattr(target, attribute), self.refer), []]
        result = target(*arguments, **named)
        same = [i for i, argument in enumerate(arguments) if argument is result and isinstance(result, MUTABLE)]
        after = [encode(item, self.refer) if isinstance(item, MUTABLE) else None for item in arguments]
        return [["argument", same[0]] if same else encode(result, self.refer), after]

    def answer(self, work: Callable[[], Any]) -> None:
        try:
            self.line.send(["returned", work()])
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            self.line.send(["raised", kinds, [encode(item, self.refer) for item in error.args]])


class Remote:
    """A proxy of an object of the worker: it can be called, and its attributes can be read."""

    def __init__(self, judge: "Judge", place: int, name: str) -> None:
        self.__dict__.update(_judge=judge, _place=place, __name__=name)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._judge.ask(self, None, positional, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._judge.ask(self, name, (), {})


class Judge:
    """Runs tests on a worker's objects."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def tests_pass(self, before: str, completion: str, after: str) -> bool:
        """Whether ``after`` runs to its end with the definitions of ``before`` and ``completion``."""
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(trusted(before, completion), names)
        tree = ast.parse(after)
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        wanted = read - names.keys() - vars(builtins).keys()
        self.line.send([before + completion, sorted(wanted)])
        if self.receive()[0] != "returned":
            return False
        defined = self.receive()
        names |= {name: decode(defined[name], self.find) for name in wanted & defined.keys()}  # and no other name
        exec(compile(after, "after", "exec"), names)
        return True

    def find(self, reference: Any) -> Remote:
        return Remote(self, int(reference[0]), str(reference[1]))

    def ask(self, target: Remote, attribute: str | None, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Has the worker call an object or read an attribute; applies its changes to arguments, returns or raises."""
        encoded = [encode(argument, self.refer) for argument in positional]
        encoded_named = {name: encode(item, self.refer) for name, item in named.items()}
        self.line.send([target._place, attribute, encoded, encoded_named])
        answer = self.receive()
        try:
            if answer[0] == "returned":
                result, after = answer[1]
                for argument, before, now in zip(positional, encoded, after, strict=False):
                    if isinstance(argument, MUTABLE) and now != before:
                        replace(argument, decode(now, self.find))
                if isinstance(result, list) and result[0] == "argument":
                    return positional[result[1]]
                return decode(result, self.find)
            error = raised(answer[1], [decode(item, self.find) for item in answer[2]])
        except Exception:
            os._exit(1)  # not a worker's answer
        raise error

    def refer(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["object", value._place]
        raise TypeError(f"the tests pass a {type(value).__name__}, which is not data")

    def receive(self) -> Any:
        try:
            return self.line.receive()
        except Exception:
            os._exit(1)  # the worker has ended


def trusted(before: str, completion: str) -> CodeType:
    """The code before a completion without the function that it completes: a prompt's imports and helpers.

    The last statement is left out if it is a function or class that the completion continues. A completion that starts
    on a new line continues nothing: then the statement is only left out if its body does nothing, as the completion may
    redefine it.
    """
    lines = before.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if not line[0].isspace()]
    for end in (len(lines), *reversed(starts)):
        try:
            tree = ast.parse("".join(lines[:end]))
        except SyntaxError:
            continue  # such as a function without a body: try without this statement
        last = tree.body[-1] if tree.body else None
        if end == len(lines) and isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            goes_on = completion.strip("\r\n")[:1].isspace() or not before.endswith("\n")
            idle = all(isinstance(node, ast.Pass | ast.Expr | ast.Import | ast.ImportFrom) for node in last.body)
            if goes_on or idle:
                del tree.body[-1]
        return compile(tree, "before", "exec")
    raise AssertionError("an empty text is a program")


def raised(kinds: list[str], arguments: list[Any]) -> Exception:
    """The closest builtin exception, except those that would silently end an iteration of the tests."""
    for name in kinds:
        kind = getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            continue
        if issubclass(kind, StopIteration | StopAsyncIteration):
            continue
        with contextlib.suppress(TypeError):  # its constructor takes other arguments
            return kind(*arguments)
    return Exception(*arguments)


def replace(old: Any, new: Any) -> None:
    """Replaces the contents of a mutable value by those of another of the same type."""
    if type(old) is not type(new):
        raise TypeError("an argument changed its type")
    if isinstance(old, list | bytearray):
        old[:] = new
    else:
        old.clear()
        old.update(new)


def main() -> None:
    """A worker on descriptors 0 and 1, or a judge: its job on 0, its verdict on 1, the worker on two more."""
    role, *worker_pipes = sys.argv[5:]
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    line = Line(incoming, outgoing)
    if role == "worker":
        line.send("ready")
        Worker(line).serve()
    judge = Judge(Line(*map(int, worker_pipes)))
    judge.receive()
    os.write(outgoing, b".")
    job = line.receive()
    if judge.tests_pass(*job):
        os.write(outgoing, b"passed")


if __name__ == "__main__":
    main()
