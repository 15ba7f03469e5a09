"""From a step's logits to the text of answers: samples tokens, sends text, detects the end."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED

from appliance.domain.messages import FinishReason
from plugins.providers.llama_cpp.engine.kv_cache import KvCache
from plugins.providers.llama_cpp.engine.sampling_pool import PendingSample, SamplingPool
from plugins.providers.llama_cpp.engine.sequences import Sequence
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import (
    Done,
    FromEngine,
    RefusalKind,
    Refused,
    Text,
)
from plugins.providers.llama_cpp.sampling.sampler import SampledToken


class TokenEmitter:
    """Samples the next tokens of answers and passes messages for the server to `send`."""

    def __init__(
        self, model: Model, context: Context, kv_cache: KvCache, send: Callable[[FromEngine], None]
    ) -> None:
        self._model, self._context, self._kv_cache, self._send = model, context, kv_cache, send
        self._pool = SamplingPool()

    def emit(self, sequence: Sequence, row: int) -> int:
        """Sample from this row and, as long as the draft is right, from the draft's rows.

        Returns the number of tokens sampled; what takes long is left to a worker, and the rest of
        the draft is dropped. An answer that can't continue is refused.
        """
        draft, generated_before = sequence.draft, sequence.generated_tokens
        sequence.draft, rejected = [], len(draft)
        sequence.position -= rejected
        try:
            self._sample(sequence, row)
            for at, token in enumerate(draft, 1):
                if sequence.interrupted or sequence.tokens[-1] != token:
                    break
                sequence.position += 1
                rejected -= 1
                self._sample(sequence, row + at)
            if rejected:
                self._context.truncate(sequence.slot, sequence.position)
        except NativeError as error:
            self.refuse([sequence], str(error))
        sequence.drafted_tokens += len(draft)
        sequence.accepted_tokens += len(draft) - rejected
        return sequence.generated_tokens - generated_before

    def emit_pending(self) -> None:
        """Emit the tokens that worker threads have sampled."""
        for sequence in list(self._kv_cache.sequences):
            sample = sequence.pending_sample
            if sample is None or not sample.done:
                continue
            try:
                sampled = sample.result()
            except NativeError as error:
                self.refuse([sequence], str(error))
            else:
                sequence.pending_sample = None
                self._emit_token(sequence, sampled)

    def wait_for_quick_samples(self) -> None:
        """Wait a moment for the worker threads, but not for those known to take long.

        Raises SamplingStalled, as `wait_for_any_sample` does.
        """
        self._pool.wait([each for each in self._pending_samples() if not each.slow])

    def wait_for_any_sample(self) -> None:
        """Wait a moment for the first of the worker threads: there is nothing else to do."""
        self._pool.wait(self._pending_samples(), return_when=FIRST_COMPLETED)

    def finish_sequences(self, tokens_per_second: float | None) -> None:
        """Send the end of each finished answer, with the decode speed of one alone."""
        for sequence in [each for each in self._kv_cache.sequences if each.finish_reason]:
            self._send_text(sequence, sequence.text.finish())
            reason = sequence.finish_reason or FinishReason.STOP
            number, usage = sequence.job.number, sequence.usage()
            self._send(Done(number, reason, usage, tokens_per_second, sequence.text.stop))
            self._kv_cache.finish_sequence(sequence)

    def refuse(self, sequences: list[Sequence], message: str) -> None:
        """End running answers with an error."""
        for sequence in sequences:
            self._send(Refused(sequence.job.number, RefusalKind.FAILED, message))
            self._kv_cache.remove_sequence(sequence)

    def _pending_samples(self) -> list[PendingSample]:
        samples = (each.pending_sample for each in self._kv_cache.sequences)
        return [sample for sample in samples if sample is not None]

    def _sample(self, sequence: Sequence, row: int) -> None:
        sampled = sequence.sampler.sample(self._context, row)
        if sampled is None:
            sequence.pending_sample = self._pool.start(sequence.sampler)
        else:
            self._emit_token(sequence, sampled)

    def _emit_token(self, sequence: Sequence, sampled: SampledToken) -> None:
        sequence.generated_tokens += 1
        if self._model.ends_generation(sampled.token):
            sequence.finish_reason = FinishReason.STOP
            return
        sequence.tokens.append(sampled.token)
        piece = self._model.piece(sampled.token)
        self._send_text(sequence, sequence.text.push(piece, sampled.likelihood))
        if sequence.text.stopped:
            sequence.finish_reason = FinishReason.STOP
        elif sequence.reached_limit or not self._can_continue(sequence):
            sequence.finish_reason = FinishReason.LENGTH
        elif sequence.drafter is not None:
            sequence.drafter.observe(sequence.tokens)

    def _can_continue(self, sequence: Sequence) -> bool:
        """Whether there is a cell for the token just sampled and for the next."""
        if sequence.generated_tokens < sequence.allowance:
            return True
        return self._kv_cache.extend_allowance(sequence) or _shift_context(sequence, self._context)

    def _send_text(self, sequence: Sequence, text: str) -> None:
        likelihoods = sequence.text.take_likelihoods()
        if text or likelihoods:
            prompt = sequence.take_prompt_usage()
            self._send(Text(sequence.job.number, text, likelihoods, prompt))


def _shift_context(sequence: Sequence, context: Context) -> bool:
    """Drop half of the text behind the kept tokens; False if that is not possible or allowed.

    The rest moves up to where the dropped text started. Only a sequence that shares no cells can
    be shifted.
    """
    if not sequence.job.request.context_shift or sequence.base or not context.can_shift:
        return False
    job = sequence.job
    kept = min(max(job.kept_tokens, job.shared_tokens), sequence.position)
    count = (sequence.position - kept) // 2
    if count < 1:
        return False
    context.shift(sequence.slot, kept, count, end=sequence.position)
    sequence.drop_tokens(kept, count)
    return True
