"""The dialect of Piston's clients: /api/v2.

schemas.py          requests and answers
errors.py           errors
versions.py         version selectors: 3.x, ^3.1, >=3 <4
convert.py          requests to programs, languages to runtimes and packages
answers.py          results of runs to answers
run_follower.py     follows a run: one answer, or a stream of messages
client_messages.py  messages of a WebSocket client
connect_route.py    /connect, the WebSocket
routes.py           all routes
"""

from appliance.api.piston.errors import DIALECT
from appliance.api.piston.routes import router

__all__ = ["DIALECT", "router"]
