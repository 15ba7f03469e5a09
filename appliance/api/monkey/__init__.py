"""The Monkey Coder dialect: /api/v1.

errors.py            errors and headers
schemas.py           bodies of /execute and /tasks
task_convert.py      bodies to tasks
task_names.py        client names of personas, task types and strategies
task_answers.py      tasks to answers
task_frames.py       journal events to stream frames
task_routes.py       /execute and /tasks
feed_frames.py       events of a user's feed to frames
feed_routes.py       /events
account_schemas.py   bodies of /auth
account_answers.py   users, tokens and keys to answers
account_routes.py    /auth: login, tokens and API keys
catalog_schemas.py   bodies of /providers, /models and /capabilities
catalog_answers.py   providers, models and capabilities to answers
catalog_routes.py    /providers, /models and /capabilities
sandbox_schemas.py   bodies of /sandbox
sandbox_convert.py   bodies to programs; results, events and languages to answers
sandbox_routes.py    /sandbox: runs of the caller's programs
routes.py            all routes
"""

from appliance.api.monkey.errors import DIALECT
from appliance.api.monkey.routes import router

__all__ = ["DIALECT", "router"]
