"""Two processes in two sandboxes: a worker, which holds a completion, and a judge, which tests it.

The judge runs the tests on stand-ins: a call of the completed function is sent to the worker, and what comes back is
data (JSON), from which the judge makes values of exact builtin types. Nothing that the completion wrote runs where the
assertions are, and the tests are never sent to the worker.

A message is eight bytes of length and that many of JSON. Scalars stand for themselves; all else is a list with a kind
in front: ``["tuple", 1, 2]``, ``["int", "0xff"]``, ``["object", 3, "f"]`` for what stays where it is.
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
SHORT = 2**53  # integers below stand for themselves: Python limits the decimal digits that it reads
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
Keep = Callable[[Any], list[Any]]


def encode(value: Any, keep: Keep) -> Any:
    """A value as JSON can say it. Instances of subclasses become their builtin base, iterators are run to their end.

    Args:
        value: anything.
        keep: says what stands for an object that is no data.
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
        return ["dict", *(encode(item, keep) for pair in value.items() for item in pair)]
    if isinstance(value, range):
        return ["range", *(encode(bound, keep) for bound in (value.start, value.stop, value.step))]
    for kind in ("list", "tuple", "set", "frozenset", "bytearray"):
        if isinstance(value, getattr(builtins, kind)):
            return [kind, *(encode(item, keep) for item in value)]
    if hasattr(type(value), "__next__") or isinstance(value, type({}.keys()) | type({}.values()) | type({}.items())):
        return ["iterator", *(encode(item, keep) for item in value)]
    return keep(value)


def decode(said: Any, find: Callable[[Any], Any]) -> Any:
    """The value that was encoded, of exact builtin types alone; ``find`` makes what stands for an object."""
    if not isinstance(said, list):
        return said
    kind, *items = said
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
            ValueError: it is too long, or no JSON.
        """
        size = int.from_bytes(self.incoming.read(8), "big")
        if not 0 < size <= LONGEST:
            raise EOFError if not size else ValueError("the message is too long")
        return json.loads(self.incoming.read(size))


class Worker:
    """Holds what a program defined, and answers for it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.kept: list[Any] = []

    def keep(self, value: Any) -> list[Any]:
        self.kept.append(value)
        return ["object", len(self.kept) - 1, str(getattr(value, "__name__", "object"))]

    def find(self, said: Any) -> Any:
        return self.kept[said[0]]

    def serve(self) -> NoReturn:
        """Runs the program that comes first, tells what it defines of the names that come with it, answers calls."""
        program, wanted = self.line.receive()
        module = sys.modules["__main__"] = ModuleType("__main__")
        names = module.__dict__
        self.answer(lambda: exec(compile(program, "program", "exec"), names))
        self.line.send({name: encode(names[name], self.keep) for name in wanted if name in names})
        while True:
            target, attribute, positional, named = self.line.receive()
            arguments = [decode(argument, self.find) for argument in positional]
            named = {name: decode(argument, self.find) for name, argument in named.items()}
            self.answer(lambda: self.work(self.kept[target], attribute, arguments, named))  # noqa: B023 (called at once)

    def work(self, target: Any, attribute: str | None, arguments: list[Any], named: dict[str, Any]) -> Any:
        """What a call or an attribute gives, and what became of the arguments that can change."""
        if attribute is not None:
            return [encode(getattr(target, attribute), self.keep), []]
        result = target(*arguments, **named)
        same = [i for i, argument in enumerate(arguments) if argument is result and isinstance(result, MUTABLE)]
        after = [encode(item, self.keep) if isinstance(item, MUTABLE) else None for item in arguments]
        return [["argument", same[0]] if same else encode(result, self.keep), after]

    def answer(self, work: Callable[[], Any]) -> None:
        try:
            self.line.send(["returned", work()])
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            self.line.send(["raised", kinds, [encode(item, self.keep) for item in error.args]])


class Remote:
    """Stands for an object of the worker: it can be called, and its attributes can be read."""

    def __init__(self, judge: "Judge", place: int, name: str) -> None:
        self.__dict__.update(_judge=judge, _place=place, __name__=name)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._judge.ask(self, None, positional, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._judge.ask(self, name, (), {})


class Judge:
    """Runs tests on what a worker holds."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def tests_pass(self, before: str, completion: str, after: str) -> bool:
        """Whether what follows a completion runs to its end, on what the text in front and the completion define."""
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(trusted(before, completion), names)
        tree = ast.parse(after)
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        wanted = read - names.keys() - vars(builtins).keys()
        self.line.send([before + completion, sorted(wanted)])
        if self.receive()[0] != "returned":
            return False
        said = self.receive()
        names |= {name: decode(said[name], self.find) for name in wanted & said.keys()}  # and no other name
        exec(compile(after, "after", "exec"), names)
        return True

    def find(self, said: Any) -> Remote:
        return Remote(self, int(said[0]), str(said[1]))

    def ask(self, target: Remote, attribute: str | None, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Has the worker call something or read an attribute; changes the arguments as it did, returns or raises."""
        said = [encode(argument, self.keep) for argument in positional]
        self.line.send(
            [target._place, attribute, said, {name: encode(item, self.keep) for name, item in named.items()}]
        )
        answer = self.receive()
        try:
            if answer[0] == "returned":
                result, after = answer[1]
                for argument, before, now in zip(positional, said, after, strict=False):
                    if isinstance(argument, MUTABLE) and now != before:
                        replace(argument, decode(now, self.find))
                if isinstance(result, list) and result[0] == "argument":
                    return positional[result[1]]
                return decode(result, self.find)
            error = raised(answer[1], [decode(item, self.find) for item in answer[2]])
        except Exception:
            os._exit(1)  # an answer that no worker gives
        raise error

    def keep(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["object", value._place]
        raise TypeError(f"the tests hand over a {type(value).__name__}, which is no data")

    def receive(self) -> Any:
        try:
            return self.line.receive()
        except Exception:
            os._exit(1)  # no worker any more


def trusted(before: str, completion: str) -> CodeType:
    """What precedes a completion, less the function that it completes: a prompt's imports and helpers.

    The last statement is left out if it is a function or class, for the completion goes on with it. A completion that
    starts a line of its own goes on with nothing: then only a body without any work is left out, which it may restate.
    """
    lines = before.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if not line[0].isspace()]
    for end in (len(lines), *reversed(starts)):
        try:
            tree = ast.parse("".join(lines[:end]))
        except SyntaxError:
            continue  # a function without its body, say: without the statement that it is, then
        last = tree.body[-1] if tree.body else None
        if end == len(lines) and isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            goes_on = completion.strip("\r\n")[:1].isspace() or not before.endswith("\n")
            idle = all(isinstance(part, ast.Pass | ast.Expr | ast.Import | ast.ImportFrom) for part in last.body)
            if goes_on or idle:
                del tree.body[-1]
        return compile(tree, "before", "exec")
    raise AssertionError("nothing at all is a program")


def raised(kinds: list[str], arguments: list[Any]) -> Exception:
    """The closest builtin exception, unless raising it would end an iteration of the tests without a word."""
    for name in kinds:
        kind = getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            continue
        if issubclass(kind, StopIteration | StopAsyncIteration):
            continue
        with contextlib.suppress(TypeError):  # made of other arguments
            return kind(*arguments)
    return Exception(*arguments)


def replace(old: Any, new: Any) -> None:
    """Gives a mutable value the contents of another of its type."""
    if type(old) is not type(new):
        raise TypeError("an argument changed its type")
    if isinstance(old, list | bytearray):
        old[:] = new
    else:
        old.clear()
        old.update(new)


def main() -> None:
    """A worker on descriptors 0 and 1, or a judge: its job on 0, its verdict on 1, the worker on the two given."""
    role, *pipes = sys.argv[5:]
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    line = Line(incoming, outgoing)
    if role == "worker":
        line.send("ready")
        Worker(line).serve()
    judge = Judge(Line(*map(int, pipes)))
    judge.receive()
    os.write(outgoing, b".")
    job = line.receive()
    if judge.tests_pass(*job):
        os.write(outgoing, b"passed")


if __name__ == "__main__":
    main()
