"""The Anthropic-compatible dialect: /v1/messages.

schemas.py        requests and answers
errors.py         errors and headers
convert.py        requests to completion specs
tools.py          tools and tool_choice
client_tools.py   functions for the tools that have a type of their own
blocks.py         turns of content blocks to messages
server_blocks.py  what tools of Anthropic's servers did, as text
answers.py        completions to whole messages
frames.py         completions to streams
routes.py         all routes
"""

from appliance.api.anthropic.errors import DIALECT
from appliance.api.anthropic.routes import router

__all__ = ["DIALECT", "router"]
