"""llama.cpp through its C interface.

loader.py    loads the library and the CPU's variant of ggml
log.py       the library's errors
bindings.py  Model and Context
batch.py     the tokens of one decode step
tokens.py    operations on lists of tokens
"""
