"""Refuses commands of languages that the setting sandbox.languages does not offer."""

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from appliance.domain.execution import RunRequest
from appliance.domain.language_programs import is_offered, language_of_program
from appliance.errors import InvalidInput

_FIRST_LINE_BYTES = 256


def check_command(request: RunRequest, enabled: Collection[str]) -> None:
    """Raise InvalidInput if the command starts a program of a language that is not offered.

    Either by the program's name, or by the #! line of a file of the request.
    """
    for program in _started_programs(request):
        language = language_of_program(program)
        if language is not None and not is_offered(language, enabled):
            raise InvalidInput.at(
                "argv",
                f"{PurePosixPath(program).name[:80]} is a program of the language {language}, "
                f"which this server does not offer (setting sandbox.languages)",
            )


def _started_programs(request: RunRequest) -> Iterator[str]:
    """The command, and the words of the #! line of the file that it names."""
    for command in request.argv[:1]:
        yield command
        path = command.removeprefix("/workspace/").removeprefix("./")
        content = next((file.content for file in request.files if file.path == path), b"")
        if content.startswith(b"#!"):
            line = content[2:_FIRST_LINE_BYTES].partition(b"\n")[0]
            yield from line.decode(errors="replace").split()
