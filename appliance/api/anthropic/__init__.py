"""The Anthropic-compatible dialect: /v1/messages.

schemas.py  requests and answers
errors.py   errors and headers
convert.py  requests to completion specs
blocks.py   turns of content blocks to messages
answers.py  completions to whole messages
frames.py   completions to streams
routes.py   all routes
"""

from appliance.api.anthropic.errors import DIALECT
from appliance.api.anthropic.routes import router

__all__ = ["DIALECT", "router"]
