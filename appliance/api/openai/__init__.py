"""The OpenAI-compatible dialect below /v1: chats, completions, embeddings, models, responses.

schemas.py            request bodies
answer_schemas.py     response bodies
errors.py             errors and headers, for responses/ as well
convert.py            request bodies to completion specs
messages.py           messages of a chat
tool_options.py       tools, tool_choice and response_format of a chat
answers.py            completions to whole answers
stream_merge.py       several completions of a request: start, merge, collect, close
stream_chunks.py      events of a completion to encoded chunks
stream_frames.py      the stream of a request: chunks, usage, errors, [DONE]
chat_routes.py        POST /v1/chat/completions
completion_routes.py  POST /v1/completions
embedding_routes.py   POST /v1/embeddings
model_routes.py       GET /v1/models
responses/            the Responses API: /v1/responses
routes.py             all routes
"""

from appliance.api.openai.errors import DIALECT
from appliance.api.openai.routes import router

__all__ = ["DIALECT", "router"]
