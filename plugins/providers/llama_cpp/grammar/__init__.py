"""GBNF, llama.cpp's grammar format: building, parsing, checking, and JSON schema to GBNF.

charsets.py        sets of characters as GBNF
gbnf_builder.py    builds a grammar rule by rule
gbnf_parser.py     parses a grammar
gbnf_safety.py     rejects grammars on which llama.cpp would abort or never end
gbnf_ambiguity.py  rejects grammars whose ambiguity grows with the text
gbnf_runs.py       rejects grammars that need too long for one token
number_ranges.py   decimal numbers within bounds
regex.py           regular expressions
json_schema/       JSON schema to GBNF
"""
