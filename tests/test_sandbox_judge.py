"""The judge and the worker: tests see what they would see if the completion ran beside them."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import sandbox
from eval.inside.remote import decode, encode, raised, trusted
from tests.hostile import needs_sandbox, true_for

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
    | st.integers(10**99, 10**100) | st.just(-(2**53)) | st.just(-0.0) | st.just("\ud800\0")
)  # fmt: skip
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.binary().map(bytearray)
        | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
    ),
    max_leaves=10,
)
# Bodies of f, and tests of it that must pass.
SEEN = {
    "an argument that is sorted in place": ("x.sort()", "x = [3, 1, 2]\nassert f(x) is None and x == [1, 2, 3]"),
    "an argument within another": ("x[0].append(1)", "x = [[]]\nf(x)\nassert x == [[1]]"),
    "a dictionary that changes": ("x['b'] = x.pop('a')", "x = {'a': 1}\nf(x)\nassert x == {'b': 1}"),
    "a set that changes": ("x.add(2)", "x = {1}\nf(x)\nassert x == {1, 2}"),
    "an argument that comes back": ("return x", "x = [1]\nassert f(x) is x"),
    "an argument as it was": ("return x[:]", "x = [1]\nassert f(x) == x and f(x) is not x"),
    "an error": (
        "raise ValueError('no')",
        "try:\n  f(1)\n  assert False\nexcept ValueError as e:\n  assert str(e) == 'no'",
    ),
    "an error of its own": (
        "class Mine(KeyError): pass\n    raise Mine('no')",
        "try:\n  f(1)\n  assert False\nexcept KeyError as e:\n  assert e.args == ('no',)",
    ),
    "an error of many parts": ("b'\\xff'.decode()", "try:\n  f(1)\n  assert False\nexcept ValueError:\n  pass"),
    "the error of a call": ("return 1", "try:\n  f()\n  assert False\nexcept TypeError:\n  pass"),
    "a name": ("return x", "assert f(x=2) == 2"),
    "a generator": ("yield from x", "assert tuple(f([1, 2])) == (1, 2)"),
    "a map": ("return map(abs, x)", "assert list(f([-1])) == [1]"),
    "keys": ("return {1: 2}.keys()", "assert sorted(f(0)) == [1]"),
    "a counter": ("import collections\n    return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
    "a named tuple": (
        "import collections\n    return collections.namedtuple('A', 'a b')(1, 2)",
        "assert f(0) == (1, 2) and type(f(0)) is tuple",
    ),
    "an enumeration": ("import enum\n    return enum.IntEnum('E', 'A').A", "assert f(0) == 1 and type(f(0)) is int"),
    "no number": ("return float('nan')", "assert f(0) != f(0)"),
    "infinity": ("return float('-inf')", "assert f(0) == -float('inf')"),
    "types": ("return [x, x == 1, float(x)]", "assert [type(i) for i in f(1)] == [int, bool, float]"),
    "a large number": ("return x ** 5000", "assert f(10) == 10 ** 5000"),
    "a closure": ("return lambda y: x + y", "assert f(1)(2) == 3"),
    "what lasts": ("global n\n    n = n + 1 if 'n' in globals() else 1\n    return n", "assert [f(0), f(0)] == [1, 2]"),
    "an object": (
        "class A:\n      def __init__(self): self.y = x\n      def z(self): return self.y + 1\n    return A()",
        "a = f(1)\nassert a.y == 1 and a.z() == 2 and a == a and a != 1",
    ),
    "an object handed back": ("return (lambda: 7) if x is None else x()", "assert f(f(None)) == 7"),
    "a deep list": (
        "for _ in range(100): x = [x]\n    return x",
        "y = f(1)\nfor _ in range(100): [y] = y\nassert y == 1",
    ),
    "a long list": ("return list(range(x))", "assert f(10**5) == list(range(10**5))"),
    "data by name": ("return 1\nTABLE = {1: [2]}", "assert TABLE == {1: [2]}"),
    "a second function": ("return g(x)\ndef g(x): return x + 1", "assert f(1) == g(1) == 2"),
    "what is printed": ("print(x)\n    return 1", "assert f('x' * 10**6) == 1"),
    "what is read": ("try:\n      return input()\n    except EOFError:\n      return 1", "assert f(0) == 1"),
}


def form(value: object) -> object:
    """What is equal for equal values of equal types alone."""
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(form, value)))
    if isinstance(value, list | tuple):
        return type(value), [form(item) for item in value]
    if isinstance(value, dict):
        return dict, [form(pair) for pair in value.items()]
    return type(value), repr(value)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # depends on the machine
@given(VALUES)
def test_values_come_back_as_they_were(value: object) -> None:
    assert form(decode(json.loads(json.dumps(encode(value, pytest.fail))), pytest.fail)) == form(value)


def test_values_are_of_exact_builtin_types() -> None:
    class Equal(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        def __str__(self) -> str:
            return "other"

    for value, kind in ((Equal(3), int), (Text("x"), str), (type("L", (list,), {})([1]), list), (math.inf, float)):
        back = decode(json.loads(json.dumps(encode(value, pytest.fail))), pytest.fail)
        assert type(back) is kind and (kind is not str or back == "x")


@pytest.mark.parametrize(
    "name", ["StopIteration", "StopAsyncIteration", "SystemExit", "GeneratorExit", "print", "nothing"]
)
def test_no_error_ends_the_tests_quietly(name: str) -> None:
    assert type(raised([name, "object"], ["x"])) is Exception
    assert type(raised([name, "OSError"], ["x"])) is OSError


@pytest.mark.parametrize(
    ("before", "completion", "names"),
    [
        ("", "def f(): pass", []),
        ("import math\ndef f(x):\n", "    return 1", ["math"]),
        ("import math\ndef f(x):\n    '''Text.'''\n", "    return 1", ["math"]),
        ("def g(): return 1\n\ndef f(x):\n    '''Text\nat the margin.'''\n", "    return 1", ["g"]),
        ("def g(): return 1\n\n@g\ndef f(\n    x,\n):\n    if x:\n", "        return 1", ["g"]),
        ("def g(): return 1\n\ndef f(x):\n    y = 1\n", "    return y", ["g"]),
        ("def g(): return 1\n\ndef f(x):\n    y = 1\n", "def h(): pass", ["f", "g"]),
        ("def g(): return 1\n\ndef f(x):\n    import math\n    'Text.'\n", "def f(x): return 1", ["g"]),
        ("def g(): return 1\ndef f(x): return", " 1", ["g"]),
        ("def g(): return 1\nclass A:\n", "    x = 1", ["g"]),
        ("x = [1,\n", "2]", []),
    ],
)
def test_the_completed_function_is_not_the_judges(before: str, completion: str, names: list[str]) -> None:
    namespace: dict[str, object] = {}
    exec(trusted(before, completion), namespace)
    assert sorted(namespace.keys() - {"__builtins__"}) == names


@needs_sandbox
def test_tests_see_what_they_would_see_in_one_process() -> None:
    def solves(case: tuple[str, str]) -> bool:
        return sandbox.solves("def f(x):\n", f"    {case[0]}\n", f"\n{case[1]}\n")

    assert true_for(SEEN, "this", solves) == list(SEEN)
