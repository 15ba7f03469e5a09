"""Context shift: where a request allows it, the oldest text makes room for the newest."""

from plugins.providers.llama_cpp.engine.sequences import Sequence
from plugins.providers.llama_cpp.native.bindings import Context


def shifted(sequence: Sequence, context: Context) -> bool:
    """Forget half of what follows the kept beginning; False if that can't or may not be.

    The text that stays moves up to where the forgotten text began. Only a sequence that
    shares no cells may be shifted.
    """
    if not sequence.job.request.context_shift or sequence.base or not context.can_shift:
        return False
    job = sequence.job
    kept = min(max(job.kept_tokens, job.shared_tokens), sequence.position)
    count = (sequence.position - kept) // 2
    if count < 1:
        return False
    context.shift(sequence.slot, kept, count, end=sequence.position)
    sequence.forget(kept, count)
    return True
