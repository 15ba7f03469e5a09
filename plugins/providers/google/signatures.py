"""The marks that Gemini puts on a model's tool calls, and wants back with them.

Newer models refuse a history whose calls lack them. Clients of other formats have no
field for a mark, so that it is remembered here by the call's id; for a call that is not
known any more, the API has a word that stands for none.
"""

from collections import OrderedDict

UNKNOWN = "skip_thought_signature_validator"
_MAX_BYTES = 16 * 1024 * 1024


class Signatures:
    """The marks of the latest calls, up to a bound in bytes."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._bound = max_bytes
        self._size = 0
        self._known: OrderedDict[str, str] = OrderedDict()

    def keep(self, call_id: str, signature: str) -> None:
        """Remember the mark; the oldest ones make room."""
        if not signature:
            return
        self._size += len(signature) - len(self._known.pop(call_id, ""))
        self._known[call_id] = signature
        while self._size > self._bound:
            self._size -= len(self._known.popitem(last=False)[1])

    def of(self, call_id: str) -> str:
        """The mark of this call, "" if it is not known."""
        return self._known.get(call_id, "")
