"""Examples that prompts give, in the notations that people use."""

import pytest

from appliance.agents.code import stubs
from appliance.agents.verification import examples
from appliance.agents.verification.examples import Example
from appliance.agents.verification.sandbox_harness import CallOutcome
from appliance.agents.verification.value_comparison import matches, values_equal


@pytest.mark.parametrize(
    ("prompt", "call", "expected"),
    [
        ("add(1, 2) == 3", "add(1, 2)", "3"),
        ("such that `add(1, 2) == 3`.", "add(1, 2)", "3"),
        ("assert add(1, 2) == 3", "add(1, 2)", "3"),
        ("add(1, 2) -> 3", "add(1, 2)", "3"),
        ("add(1, 2) => 3", "add(1, 2)", "3"),
        ("add(1, 2) ==> 3", "add(1, 2)", "3"),
        ("add(1, 2) ➞ 3", "add(1, 2)", "3"),
        ("add(1, 2) → 3", "add(1, 2)", "3"),
        ("add(1, 2) = 3", "add(1, 2)", "3"),
        ("add(1, 2) returns 3", "add(1, 2)", "3"),
        ("`add(1, 2)` returns `3`", "add(1, 2)", "3"),
        ("add(1, 2) should return 3.", "add(1, 2)", "3"),
        ("add(1, 2) must be 3, of course", "add(1, 2)", "3"),
        ("add(1, 2) gives 3", "add(1, 2)", "3"),
        ("add(1, 2)  # => 3", "add(1, 2)", "3"),
        ("up('a') returns 'A'", "up('a')", "'A'"),
        ('up("a, b)") returns "A, B)"', 'up("a, b)")', '"A, B)"'),
        ("f([1, 2], k=3) == [3, [4]]", "f([1, 2], k=3)", "[3, [4]]"),
        ("f({'a': 1}) == {'b': (1, 2)}", "f({'a': 1})", "{'b': (1, 2)}"),
        ("ok(3) == true", "ok(3)", "True"),
        ("ok(3) returns None", "ok(3)", "None"),
        ("half(1) == 0.5", "half(1)", "0.5"),
        ("neg(1) == -1", "neg(1)", "-1"),
        (">>> add(1, 2)\n3", "add(1, 2)", "3"),
        (">>> add(1, 2) == 3\n", "add(1, 2)", "3"),
        ("    >>> add(1,\n    ...     2)\n    3\n", "add(1,\n    2)", "3"),
    ],
)
def test_find_when_a_call_has_a_value_then_it_is_an_example(
    prompt: str, call: str, expected: str
) -> None:
    found = examples.find_examples(prompt)
    assert [(example.call, example.expected) for example in found] == [(call, expected)]


@pytest.mark.parametrize(
    "prompt",
    [
        "Write a function add(a, b) that returns the sum",
        "is_happy(a) => False",
        "add(1, 2) is nice",
        "add(1, 2) == 3 * x",
        "add(1, 2)",
        "print(1) == 2",
        "f(x) = x + 1",
        "f(1) == 'it''s'",
        "f(" * 1000,
        "f(1) == " + "[" * 5000,
        "",
    ],
)
def test_find_when_nothing_is_certain_then_there_is_no_example(prompt: str) -> None:
    assert examples.find_examples(prompt) == []


def test_find_when_doctests_build_on_each_other_then_the_setup_goes_along() -> None:
    found = examples.find_examples(">>> xs = [1]\n>>> total(xs)\n1\n")
    assert found == [Example("total(xs)", "1", doctest=True, setup=("xs = [1]",))]


def test_find_when_a_docstring_ends_the_doctest_then_its_quotes_are_no_value() -> None:
    found = examples.find_examples('def f(x):\n    """\n    >>> f(1)\n    2\n    """\n')
    assert [(e.call, e.expected) for e in found] == [("f(1)", "2")]


@pytest.mark.parametrize(
    ("sentence", "call", "expected"),
    [
        ("For n = 10 the output should be 3.", "f(10)", "3"),
        ("Input: n = 10\n    Output: 3", "f(10)", "3"),
        ("Input: 10\n    Output: 3", "f(10)", "3"),
        ("For x = 10, the result should be 3", "f(10)", "3"),
    ],
)
def test_find_when_the_parameter_is_known_then_sentences_are_read(
    sentence: str, call: str, expected: str
) -> None:
    prompt = f'def f(n):\n    """Counts.\n    {sentence}\n    """\n'
    found = examples.find_examples(prompt, stubs.find_stub(prompt))
    assert [(e.call, e.expected) for e in found] == [(call, expected)]


def test_find_when_there_are_two_parameters_then_they_are_put_in_order() -> None:
    prompt = 'def f(s, c):\n    """For c = "a", s = "b" the result should be (1, True)"""\n'
    found = examples.find_examples(prompt, stubs.find_stub(prompt))
    assert [(e.call, e.expected) for e in found] == [('f("b", "a")', "(1, True)")]


def test_find_when_a_stub_is_known_then_calls_of_others_are_no_examples() -> None:
    prompt = 'def f(n):\n    """g(1) == 2 and f(1) == 3"""\n'
    assert [e.call for e in examples.find_examples(prompt, stubs.find_stub(prompt))] == ["f(1)"]


def test_find_when_an_example_is_repeated_then_it_counts_once_and_many_are_capped() -> None:
    assert len(examples.find_examples("f(1) == 1\nf(1) == 1")) == 1
    assert (
        len(examples.find_examples("\n".join(f"f({n}) == {n}" for n in range(99))))
        == examples.MAX_EXAMPLES
    )


@pytest.mark.parametrize(
    ("expected", "answered", "holds"),
    [
        ("3", CallOutcome("3"), True),
        ("3", CallOutcome("3.0"), True),
        ("0.3", CallOutcome("0.30000000000000004"), True),
        ("3", CallOutcome("4"), False),
        ("[1, 2]", CallOutcome("(1, 2)"), False),
        ("{1: [0.5]}", CallOutcome("{1: [0.5]}"), True),
        ("None", CallOutcome(None), True),
        ("3", CallOutcome(None), False),
        ("'a'", CallOutcome('"a"'), True),
        ("3", CallOutcome("3", error="ValueError: no"), False),
        ("3", CallOutcome("[" * 9999), False),
    ],
)
def test_matches_when_a_value_is_expected_then_values_are_compared(
    expected: str, answered: CallOutcome, holds: bool
) -> None:
    assert matches(Example("f(1)", expected), answered) is holds


@pytest.mark.parametrize(
    ("expected", "answered", "holds"),
    [
        ("3", CallOutcome("3"), True),
        ("hi\n3", CallOutcome("3", printed="hi\n"), True),
        ("hi", CallOutcome(None, printed="hi\n"), True),
        ("3", CallOutcome("3", printed="debug\n"), False),
        ("None", CallOutcome(None), True),
        ("{'b': 1, 'a': 2}", CallOutcome("{'a': 2, 'b': 1}"), True),
        (
            "Traceback (most recent call last):\n    ...\nValueError: no",
            CallOutcome(None, error="ValueError: no"),
            True,
        ),
        (
            "Traceback (most recent call last):\n    ...\nValueError: no",
            CallOutcome(None, error="KeyError: 1"),
            False,
        ),
        ("Traceback (most recent call last):\n    ...\nValueError: no", CallOutcome("3"), False),
    ],
)
def test_matches_when_a_doctest_is_given_then_it_is_read_as_a_session(
    expected: str, answered: CallOutcome, holds: bool
) -> None:
    assert matches(Example("f(1)", expected, doctest=True), answered) is holds


def test_values_equal_when_texts_are_no_literals_then_only_equal_texts_count() -> None:
    assert values_equal("<A>", " <A>")
    assert not values_equal("<A>", "<B>")
