"""Converts JSON schemas to GBNF.

compiler.py   schema_rule: the rule of a schema
normalize.py  resolves references, merges and expands combinations
objects.py, arrays.py, strings.py, numbers.py  the rules of one type each
"""
