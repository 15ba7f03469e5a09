"""Grammars are checked once, also those that are refused: a check can take a second."""

from pathlib import Path

import pytest

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.constraints import output_constraints
from plugins.providers.llama_cpp.constraints.output_constraints import OutputConstraints
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from tests.support.llama_model import open_model
from tests.support.tiny_gguf import write_tiny_gguf

OUTPUTS = {
    "pattern": OutputFormat(
        OutputKind.SCHEMA, schema={"type": "string", "pattern": "^(a?){300}b$"}
    ),
    "grammar": OutputFormat(OutputKind.GRAMMAR, grammar='root ::= ("a"?){200} "b"'),
}


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_grammar_when_it_was_refused_before_then_refused_without_another_check(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """F53, F62: the same request costs the thread that builds all prompts no second time."""
    model = open_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    outputs = OutputConstraints(model, ToolCallFormat.HERMES, uses_args_marker=False)
    request = CompletionRequest("tiny", output=OUTPUTS[name])

    with pytest.raises(InvalidInput, match=f"output.{'schema' if name == 'pattern' else name}"):
        outputs.build_grammar(request)
    monkeypatch.delattr(output_constraints, "checked_rules")
    with pytest.raises(InvalidInput, match=r"unusable grammar|can't be enforced"):
        outputs.build_grammar(request)
