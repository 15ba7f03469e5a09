"""Inference: the gateway to all models, local and remote.

The life of a completion, by the modules that it meets:

gateway.py                      Gateway: the public methods; factory.py builds its parts,
                                provider_factory.py the providers
routing/model_directory.py      the name of a model or a configured route becomes a Route,
routing/model_listing.py        from each provider's (cached) list of models
request/route.py                Route: the targets to try, in order
routing/data_policy.py          removes targets that this caller's text may not be sent to
request/call.py                 CompletionCall: the request, its Route and Caller, with its
request/token_estimate.py       estimated tokens
completion_run.py               CompletionRun: runs the call under
request/deadline.py             a deadline; embedding.py does the same for embeddings
response_cache.py               answers that their request determines end the way here
attempts/fallback.py            FallbackChain: target after target,
attempts/retry.py               each again after a pause,
attempts/hedging.py             or a second target in a race with a slow one
admission/admission.py          AdmissionControl: each attempt needs a Permit, by
admission/circuit_breaker.py    the provider's circuit breaker,
admission/quotas.py             requests, tokens and spend of the provider and model,
admission/completion_queue.py   and the queue, in which users take turns (spi/fair_queue/) by
admission/shares.py             their weights
request/provider_boundary.py    the call of the plugin; its exceptions become
request/errors.py               errors, which say whether to retry or fall back
attempts/attempt_log.py         what was tried, and where the time went
usage/recorder.py               usage: reserved at the first event, settled at the end,
usage/pricing.py                with its cost

Imports go from completion_run to attempts, admission, then routing and usage, and last request.
"""

from appliance.inference.completion_run import CompletionRun
from appliance.inference.gateway import Gateway
from appliance.inference.request.call import Caller, CompletionCall
from appliance.inference.request.route import Route

__all__ = ["Caller", "CompletionCall", "CompletionRun", "Gateway", "Route"]
