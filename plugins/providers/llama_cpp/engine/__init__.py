"""The engine's own process: one model, one decode loop.

main.py              the process: connects, confines itself, loads, serves
engine.py            a generating model and its loop
intake.py            threads that read messages and prepare requests
request_preparer.py  prompt tokens, grammar and stop strings of a request
preparation_queue.py requests to be prepared, owners in turn
batcher.py           continuous batching: admission and the decode step
fairness.py          equal shares between owners
kv_cache.py          allocation of cells and slots
prefix_cache.py      the trie of prefixes that requests share
prefix_attach.py     hands computed prefixes to those who wait for them
sequences.py         Job, Prefix, Sequence
token_emitter.py     samples tokens, sends text, detects the end, shifts the context
sampling_pool.py     worker threads that sample the tokens of costly grammars
calibration.py       threads, prefill chunk and step costs
embedding_engine.py  an embedding model and its loop
pooling.py           llama.cpp's context for embeddings
outbox.py            frames to the server
"""
