"""The server's side of the engines: one supervised process per loaded model.

engine_pool.py            EnginePool: the slot of every model that has been requested
engine_slot.py            EngineSlot: supervisor, request limit and idle timer of one model
supervisor.py             starts, watches and restarts one engine process
backoff.py                the delay before a restart
engine_process.py         spawns, kills and reaps the process
engine_connection.py      frames over the socket; base of the two connections
completion_connection.py  requests to the engine of a text model
completion_stream.py      one completion: buffered text, parsed tool calls
embedding_connection.py   requests to the engine of an embedding model
embeddings.py             embeds the texts of one request
memory_budget.py          the memory shared by all engines
load_profiles.py          what loading measured, kept for the next load
request_limit.py          running and waiting requests of one engine
validation.py             checks completion requests
options.py                settings
engine_types.py           types shared by the modules above
"""
