"""Tool calls out of the text of an answer, while it comes."""

from collections.abc import Collection, Iterator

from appliance.domain.messages import ToolCall
from plugins.providers.llama_cpp.call_texts import call_of, marked_call, row_of_calls
from plugins.providers.llama_cpp.protocol import CallForm
from plugins.providers.llama_cpp.text import overlap
from plugins.providers.llama_cpp.tools import CALL_END, CALL_START

Piece = str | ToolCall
_LIST_MARK = "[TOOL_CALLS]"
_CODE_MARK = "<|python_tag|>"
_FIRST_KEYS = ('"name"', '"type"', '"function"')


class CallReader:
    """Splits an answer into text and calls; what may yet become a call waits.

    Only calls of known functions with an object for arguments are calls; all else is
    text, as the model wrote it. Without `parallel` the first call is the only one.
    """

    def __init__(self, form: CallForm, names: Collection[str], *, parallel: bool) -> None:
        self._names, self._parallel = names, parallel
        self._form = form
        self._mark = {CallForm.TAGGED: CALL_START, CallForm.LISTED: _LIST_MARK}.get(
            form, _CODE_MARK
        )
        self._held = ""
        self._inside = False
        self._begun = False
        self._searched = 0
        self.calls = 0

    def push(self, text: str) -> list[Piece]:
        """What is sure after this piece of the answer."""
        self._held += text
        return self._counted(self._sure())

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """What is left at the answer's end; a call may lack its end mark.

        Half a call of an answer that was `cut` short is not told.
        """
        rest, self._held = self._held, ""
        if not self._inside:
            return [rest] if rest.strip() or (rest and not self.calls) else []
        calls = self._calls(rest.removeprefix(self._mark))
        return self._counted(iter(calls or ([] if cut else [rest])))

    def _calls(self, inner: str) -> list[ToolCall]:
        """The calls in what stands behind the mark, none if it holds anything else."""
        if self._form is CallForm.TAGGED:
            call = call_of(inner, self._names)
            return [call] if call else []
        if self._form is CallForm.BARE:
            return row_of_calls(inner, self._names)
        found = row_of_calls(inner, self._names)
        parts = [] if found else [marked_call(part, self._names) for part in self._parts(inner)]
        return found or [call for part in parts for call in part] * all(parts)

    @staticmethod
    def _parts(inner: str) -> list[str]:
        return [part for part in inner.split(_LIST_MARK) if part.strip()]

    def _sure(self) -> Iterator[Piece]:
        while self._held:
            before = len(self._held)
            yield from self._call() if self._inside else self._text()
            if len(self._held) == before:
                return

    def _text(self) -> Iterator[Piece]:
        """Text up to a mark; blanks wait, as they say nothing in front of a call."""
        at = self._held.find(self._mark)
        if at < 0 and self._form is CallForm.BARE and not self._begun:
            at = self._bare_start()
        if at >= 0:
            text, self._held = self._held[:at].rstrip(), self._held[at:]
            self._inside, self._begun = True, True
            self._searched = 0
            if text:
                yield text
            yield from self._call()
            return
        keep = overlap(self._held, self._mark)
        sure = self._held[: len(self._held) - keep].rstrip()
        if sure and not self._may_be_bare():
            self._begun = True
            self._held = self._held[len(sure) :]
            yield sure

    def _may_be_bare(self) -> bool:
        """Whether the answer may still turn out to be a call without a mark."""
        if self._form is not CallForm.BARE or self._begun:
            return False
        start = self._held.lstrip()
        return start.startswith("{") and any(
            key.startswith(start[1:].lstrip()) for key in _FIRST_KEYS
        )

    def _bare_start(self) -> int:
        start = self._held.lstrip()
        key = start[1:].lstrip()
        if start.startswith("{") and key.startswith(_FIRST_KEYS):
            return len(self._held) - len(start)
        return -1

    def _call(self) -> Iterator[Piece]:
        """A tagged call ends at its tag, unless that stands within its texts."""
        while self._form is CallForm.TAGGED:
            end = self._held.find(CALL_END, self._searched)
            if end < 0:
                self._searched = max(0, len(self._held) - len(CALL_END))
                return
            call = call_of(self._held[len(self._mark) : end], self._names)
            self._searched = end + 1
            if call is not None:
                self._held, self._inside = self._held[end + len(CALL_END) :], False
                yield call
                return

    def _counted(self, pieces: Iterator[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                if self.calls and not self._parallel:
                    continue
                self.calls += 1
            found.append(piece)
        return found
