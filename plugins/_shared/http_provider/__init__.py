"""Shared by the providers that are reached over HTTP. Not a plugin itself.

provider.py              HttpProvider: the SPI on top of one provider's API
options.py               settings, and the base URL built from them
unsupported.py           rejects request fields that a provider lacks
temperature_fallback.py  retries without temperature for models that reject it
media_fallback.py        retries with placeholders for models that read text only
model_list_cache.py      the provider's models, cached
client.py                HTTP requests, exchanges and event streams
session.py               opens the connection pool
sse.py                   parser of server-sent events
failures.py              maps statuses, stream errors and transport errors to ApplianceErrors
error_body.py            parses the providers' error bodies, removes secrets
context_overflow.py      recognizes a prompt that is too long from a provider's wording
tool_arguments.py        arguments of tool calls as objects
tool_names.py            short names of tools, and back
embeddings.py            batches, counts and normalization of embeddings
"""
