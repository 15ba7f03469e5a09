"""What all dialects share for HTTP requests and responses.

In the order in which a request meets them:

middleware.py       outermost layer: request id, path, common headers, metrics
access_log.py       one line per request
open_streams.py     ends streams whose credentials were revoked
proxies.py          client address and scheme behind trusted reverse proxies
admission.py        one Host header; requests in progress per client
pacer.py            spreads events over time that hostile clients could cause at any rate
body_drain.py       reads bodies, also the rest of one whose request was answered early
body_deadline.py    minimum rate of bodies
handshakes.py       refuses WebSocket handshakes: 401, 404, 426
request_context.py  accessors for what a request carries in its ASGI scope
route_table.py      the table of all routes: scopes, role, class, budgets
auth.py             the guard: credentials, roles, protection against cross-site requests
origins.py          origins of requests that browsers send
rate_limit.py       limits of requests of each caller, by the rate policy
loopback.py         tells local requests from relayed ones
requests.py         request class: JSON and form bodies
body_decoder.py     decodes a body as the type of its route; counts the values of a large one
malformed_json.py   what is wrong with a body that is no JSON text, and where
ignored_fields.py   names fields that were left out: X-Ignored-Fields
fast_route.py       routes and responses without Litestar's overhead per request
dependencies.py     injection of services and settings into handlers
labels.py           labels of a request (X-Labels)
validation.py       msgspec's errors as field and reason
errors.py           exceptions to responses; error codes to statuses
dialect.py          what each dialect defines: prefix, error shape, headers
ids.py              random ids
times.py            timestamps
"""
