"""Reads the header of GGUF files.

header.py     inspect_model: parses and checks the headers of a model's files
reader.py     bounded reads, checked against the size of the file
metadata.py   GgufInfo: the properties derived from metadata and tensors
constants.py  tensor types, file types, architectures, FIM tokens
"""
