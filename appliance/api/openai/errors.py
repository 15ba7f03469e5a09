"""How an error looks below this dialect's paths."""

from appliance.api.http.dialect import Dialect
from appliance.api.openai.vendor_errors import headers, render

_PREFIXES = ("/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/models")

DIALECTS = tuple(Dialect(prefix, render, headers) for prefix in _PREFIXES)
