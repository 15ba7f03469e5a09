"""What the engine and its supervisor both need to know of the machine and the model.

kv_sizing.py       sizes of the KV cache, the context and the prefill chunk
process_memory.py  memory that an engine's process occupies
exit_diagnosis.py  how an engine ended, as advice to the user
"""
