"""Responses that are sent piece by piece, and what a disconnect means for them.

sse.py                server-sent events: frames, encoding, heartbeats
disconnect.py         cancels work when the client disconnects
completion_stream.py  answers of completions, whole or streamed
websocket.py          WebSockets that exchange JSON objects: credentials, relaying, closing
send_queue.py         the frames that wait for the client of a WebSocket
"""
