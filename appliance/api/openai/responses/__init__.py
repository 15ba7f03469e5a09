"""OpenAI's Responses API: /v1/responses.

schemas.py         request bodies
tools.py           declared tools to functions
client_tools.py    functions for the tools that have a type of their own
tool_choice.py     which of them may or must be called
call_items.py      function calls to items of the client's tools, and back
server_items.py    what tools of OpenAI's servers did, as text
items.py           input items to messages
convert.py         requests to completion specs
response_state.py  completions to responses and their events
routes.py          all routes
"""
