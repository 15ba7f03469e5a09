"""Remembers the thought signatures of Gemini's tool calls.

Newer models reject a history whose tool calls lack the signature they came with. Other
API formats have no field for it, so it is kept here by the call's id; for a call that is
no longer known, the API accepts SKIP_VALIDATOR in its place.
"""

from collections import OrderedDict

SKIP_VALIDATOR = "skip_thought_signature_validator"
_MAX_BYTES = 16 * 1024 * 1024


class ThoughtSignatureCache:
    """The signatures of the latest calls, up to `max_bytes`; the oldest are evicted."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_event_bytes = max_bytes
        self._size = 0
        self._signatures: OrderedDict[str, str] = OrderedDict()

    def store(self, call_id: str, signature: str) -> None:
        """Remember the signature of a call; "" is ignored."""
        if not signature:
            return
        self._size += len(signature) - len(self._signatures.pop(call_id, ""))
        self._signatures[call_id] = signature
        while self._size > self._max_event_bytes:
            self._size -= len(self._signatures.popitem(last=False)[1])

    def get(self, call_id: str) -> str:
        """The signature of this call, "" if it is not known."""
        return self._signatures.get(call_id, "")
