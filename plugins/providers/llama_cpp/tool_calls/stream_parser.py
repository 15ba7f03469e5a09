"""Tool calls out of the text of an answer, while it comes."""

from collections.abc import Iterable, Iterator

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.sampling.detokenizer import overlap
from plugins.providers.llama_cpp.tool_calls.formats import FRAMES, read_calls

Piece = str | ToolCall
_MOST_ENDS = 64
_FIRST_KEYS = ('"name"', '"type"', '"function"')


class CallReader:
    """Splits an answer into text and calls; what may yet become a call waits.

    Only calls of known functions with an object for arguments are calls; all else is
    text, as the model wrote it. A call is told whole: what is told can't be taken back,
    and its last character may show that it was none. Without `parallel` the first call
    is the only one.
    """

    def __init__(self, form: CallForm, tools: Iterable[Tool], *, parallel: bool) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._parallel = parallel
        self._form, self._frame = form, FRAMES[form]
        self._held = ""
        self._inside = False
        self._begun = False
        self._after_call = False
        self._searched = self._tried = 0
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
            if self._after_call and self._frame.closing.startswith(rest.strip()):
                return []
            return [rest] if rest.strip() or (rest and not self.calls) else []
        whole = not (cut and self._form is CallForm.XML)
        calls = read_calls(self._form, rest.lstrip(), self._tools) if whole else []
        return self._counted(iter(calls or ([] if cut else [rest])))

    def _sure(self) -> Iterator[Piece]:
        while self._held:
            before = len(self._held)
            yield from self._call() if self._inside else self._text()
            if len(self._held) == before:
                return

    def _text(self) -> Iterator[Piece]:
        """Text up to a mark; blanks wait, as they say nothing in front of a call."""
        if self._after_call and self._closes():
            return
        at = self._start()
        if at >= 0:
            text = self._held[:at].rstrip()
            self._held = self._held[len(text) :]
            self._inside, self._begun = True, True
            self._searched = self._tried = 0
            if text:
                yield text
            yield from self._call()
            return
        keep = max(overlap(self._held, start) for start in self._frame.starts)
        sure = self._held[: len(self._held) - keep].rstrip()
        if sure and not self._may_be_bare():
            self._begun = True
            self._held = self._held[len(sure) :]
            yield sure

    def _closes(self) -> bool:
        """Whether a closing mark follows a call, or may yet; then it is no text."""
        closing, following = self._frame.closing, self._held.lstrip()
        if closing and following.startswith(closing):
            self._held = following.removeprefix(closing)
            self._after_call = False
        elif not closing.startswith(following):
            self._after_call = False
        return self._after_call

    def _start(self) -> int:
        """Where a call may begin, -1 if nowhere."""
        places = [self._held.find(start) for start in self._frame.starts]
        at = min((place for place in places if place >= 0), default=-1)
        if at < 0 and self._form is CallForm.BARE and not self._begun:
            return self._bare_start()
        return at

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
        """A call with an end mark ends there, unless that stands within its texts.

        What has had so many ends and was no call is looked at once more at the answer's.
        """
        mark = self._frame.end
        while mark and self._tried < _MOST_ENDS:
            end = self._held.find(mark, self._searched)
            if end < 0:
                self._searched = max(0, len(self._held) - len(mark))
                return
            after = end + len(mark)
            found = read_calls(self._form, self._held[:after].lstrip(), self._tools)
            self._searched, self._tried = end + 1, self._tried + 1
            if found:
                self._held, self._inside = self._held[after:], False
                self._after_call = True
                yield from found
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
