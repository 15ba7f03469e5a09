"""Callers' grammars: those on which llama.cpp would abort or never end are rejected."""

import random
import re
from decimal import Decimal
from pathlib import Path

import pytest

from plugins.providers.llama_cpp.grammar.gbnf_ambiguity import check_readings
from plugins.providers.llama_cpp.grammar.gbnf_builder import COMMON_NAMES
from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules, is_recursive
from plugins.providers.llama_cpp.grammar.number_ranges import Bound, decimals, integers
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.sampling.grammar_sampler import create_grammar_sampler
from tests.support.llama_model import matches_grammar, open_model
from tests.support.schema_grammar import schema_grammar
from tests.support.tiny_gguf import write_tiny_gguf

_MANY_WAYS = "\n".join(
    f'{"root" if at == 0 else f"r{at}"} ::= r{at + 1} "x" | r{at + 1} "y"' for at in range(60)
)
_LONG_CHAIN = "\n".join(f"{'root' if at == 0 else f'r{at}'} ::= r{at + 1}" for at in range(4000))
_WRONG = [
    ("", "'root' is missing"),
    ('x ::= "a"', "'root' is missing"),
    ('root := "a"', "line 1, column 6: '::=' is missing"),
    ("root ::= y", "uses 'y'"),
    ('root ::= "a', "ends within"),
    ("root ::= [a-", "ends within"),
    ("root ::= []", "must not be empty"),
    ("root ::= [z-a]", "from the lower"),
    ('root ::= ("a"', r"'\)' is missing"),
    ("root ::= *", "must follow an item"),
    ('root ::= ""*', "must follow an item"),
    ('root ::= "a"{3000}', "repeated at most 2000 times"),
    ('root ::= "a"{0,99999999999999999999999}', "repeated at most 2000 times"),
    ('root ::= "a"{5,2}', "less than the first"),
    ('root ::= "a"{x}', "a number is missing"),
    ('root ::= "a"{1', "'}' is missing"),
    ("root ::= <think>", "tokens in a grammar"),
    (r'root ::= "\q"', r"unknown escape \\q"),
    (r'root ::= "\x4"', "needs 2 hexadecimal"),
    (r'root ::= "\UFFFFFFFF"', "is not a character"),
    ('root ::= "a"\n  }', "line 2, column 3"),
    ('root ::= "a"\0', "NUL"),
    ('root ::= root "a" | "b"', "begins with itself"),
    ('root ::= a root "y" | "x"\na ::= b\nb ::= "" | "q"', "begins with itself"),
    ('root ::= ("a"? root) "b" | "c"', "begins with itself"),
    ('root ::= "a" root', "no finite text"),
    (_MANY_WAYS + '\nr60 ::= "z"', "can start in more than"),
    ("root ::= " + "(" * 500 + '"a"' + ")" * 500, "nested"),
    ("root ::= " + '"a" ' * 200_000, "bytes"),
    ("root ::= " + '"aaaaaaaaaa"{2000} ' * 40, "items"),
]
_FINE = [
    ('root ::= "a"', "a"),
    ("root ::= a? b+ # why\na ::= [x-z]\n\nb ::= (\n  a\n  | [0-9]\n)", "x1y"),
    ('root ::= [^"\\\\]{2,3}', "é?"),
    ('root ::= "(" root ")" | ', "(())"),
    ('root ::= ws* "x"\nws ::= [ \\t]*', "  x"),
    ("root ::= .{3}", "日本!"),
    (_LONG_CHAIN + '\nr4000 ::= "z"?', "z"),
]


_DOUBLING = [
    'root ::= "a" root "b" | "a" root "c" | ""',
    'root ::= "hello world, " root "b" | "hello world, " root "c" | "z"',
    'root ::= "a" root root "b" | "a"',
    'root ::= "a" root? root? "b"',
    'root ::= amb ("x" root "b" | "ax" root "c") | "q"\namb ::= "a" | "aa"',
]
_CALM = [
    "root ::= " + " | ".join(f'"word {at}"' for at in range(300)),
    "root ::= .*",
    'root ::= ([a-z]+ " "?)+ "."',
    'root ::= term ([-+*/] term)*\nterm ::= [a-z]+ ws | "(" ws root ")" ws\nws ::= [ ]*',
    schema_grammar({}, "s"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("tiny")
    return open_model(write_tiny_gguf(folder / "tiny.gguf"))


@pytest.mark.parametrize(("grammar", "reason"), _WRONG)
def test_grammar_when_llama_would_choke_then_refused_with_the_reason(grammar: str, reason: str):
    with pytest.raises(GrammarError, match=reason):
        checked_rules(grammar)


@pytest.mark.parametrize(("grammar", "text"), _FINE)
def test_grammar_when_fine_then_llama_takes_it_too(model: Model, grammar: str, text: str):
    checked_rules(grammar)
    assert matches_grammar(model, grammar, text)


@pytest.mark.parametrize("grammar", _DOUBLING)
def test_readings_when_they_double_with_the_text_then_refused_with_such_a_text(grammar: str):
    with pytest.raises(GrammarError, match="has more than 48 parses"):
        check_readings(checked_rules(grammar))


@pytest.mark.parametrize("grammar", _CALM)
def test_readings_when_they_stay_few_then_taken(grammar: str):
    check_readings(checked_rules(grammar))


def test_recursion_when_a_rule_stands_within_itself_then_seen_unless_known():
    assert is_recursive(checked_rules('root ::= "(" root ")" | "x"'))
    assert not is_recursive(checked_rules('root ::= a a\na ::= ("x" | "y")*'))
    anything = checked_rules(schema_grammar({"type": "array"}, "s"))
    assert is_recursive(anything)
    assert not is_recursive(anything, COMMON_NAMES)


def test_grammar_when_text_is_random_then_checked_or_refused_but_never_a_crash(model: Model):
    drawn = random.Random(11)
    parts = ["root", "a", " ::= ", '"x"', "[a-z]", "(", ")", "|", "*", "+", "{2,3}", "\n", '"', "."]
    taken = 0
    for _ in range(3000):
        text = "root ::= " + "".join(drawn.choices(parts, k=drawn.randrange(12)))
        try:
            checked_rules(text)
            sampler = create_grammar_sampler(model, text)
        except (GrammarError, NativeError):
            continue
        model.lib.llama_sampler_free(sampler)
        taken += 1
    assert taken > 30


def _expression(grammar: str) -> re.Pattern[str]:
    escaped = re.sub(r'"([^"]*)"', lambda found: f"(?:{re.escape(found[1])})", grammar)
    return re.compile(escaped.replace(" ", "") or "(?!)")


def test_integers_when_bounds_are_any_then_exactly_those_between():
    drawn = random.Random(1)
    for _ in range(400):
        ends: list[int | None] = [drawn.choice([None, drawn.randint(-1200, 1200)]) for _ in "ab"]
        low, high = ends
        if low is not None and high is not None and low > high:
            low, high = high, low
        found = _expression(integers(low, high))
        near = [end + step for end in (low, high) if end is not None for step in (-1, 0, 1)]
        for value in (*near, *(drawn.randint(-2500, 2500) for _ in range(20))):
            inside = (low is None or value >= low) and (high is None or value <= high)
            assert bool(found.fullmatch(str(value))) == inside, (low, high, value)


def test_decimals_when_bounds_are_any_then_exactly_those_between():
    drawn = random.Random(2)

    def number() -> Decimal:
        return Decimal(drawn.randint(-300, 300)) / drawn.choice([1, 10, 100, 1000])

    for _ in range(600):
        low, high = sorted([number(), number()])
        low_open, high_open = drawn.random() < 0.5, drawn.random() < 0.5
        bounds = Bound(low, is_open=low_open), Bound(high, is_open=high_open)
        found = _expression(decimals(*bounds))
        steps = [Decimal(step) for step in ("-1", "-0.0001", "0", "0.0001", "1")]
        for value in (*(end + step for end in (low, high) for step in steps), number(), number()):
            above = value > low if low_open else value >= low
            inside = above and (value < high if high_open else value <= high)
            text = f"{value:f}" if value else "0"
            for spelled in (text, text + "00" if "." in text else f"{text}.0"):
                assert bool(found.fullmatch(spelled)) == inside, (low, high, spelled)
