"""The HTTP API.

application.py  builds the Litestar application
openapi.py      additions to the OpenAPI document
http/           shared by all dialects: middleware, auth, errors, requests
streaming/      server-sent events, WebSockets, disconnects
monkey/         dialect: /api/v1
openai/         dialect: /v1
anthropic/      dialect: /v1/messages
piston/         dialect: /api/v2
system/         health, metrics, docs
"""
