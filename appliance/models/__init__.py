"""The local models: registry, file format, and sources to fetch them from.

registry.py         ModelRegistry: add, remove, verify, choose the default
cached_registry.py  CachedModelRegistry: the list without a query per request
integrity.py        verifies a model's file against its record
naming.py           aliases: validation, defaults
directory.py        the models folder: lock, atomic install of a file
gguf/               the header of GGUF files
sources/            local paths, URLs, wheels of package indexes
"""
