"""The HTTP server: Granian inside this process, and limits on its connections.

http_server.py          starts and stops Granian
connection_requests.py  ASGI layer: which connections have a request in progress
connection_guard.py     looks at every connection and ends those over a limit
connection_table.py     the connections accepted at our port, by descriptor and by address
connection.py           state and deadlines of one connection
connection_limits.py    which connections are over the limits of number
ended_connections.py    logs and counts connections that were ended
open_sockets.py         reads and ends sockets of this process by descriptor number
"""

from appliance.server.http_server import HttpServer, check_free, wanted_open_files
from appliance.server.open_sockets import available_open_files

__all__ = ["HttpServer", "available_open_files", "check_free", "wanted_open_files"]
