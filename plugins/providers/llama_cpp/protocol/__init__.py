"""Messages between the server and its engine processes.

messages.py            frames; messages of text models
embedding_messages.py  messages of embedding models
"""
