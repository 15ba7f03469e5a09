"""Tool calls in the formats of the model families: parsing, and grammars that force them.

markers.py           the markers around calls
formats.py           which markers and which parser belong to a ToolCallFormat
stream_parser.py     splits a streamed completion into text and calls
json_calls.py        calls written as JSON (Hermes, Mistral, Llama)
qwen_xml.py          calls in Qwen3-Coder's XML
deepseek.py          calls between DeepSeek's markers
argument_values.py   unquoted arguments as values of their declared types
grammar.py           GBNF of calls
qwen_xml_grammar.py  GBNF of a call's parameters in Qwen3-Coder's XML
"""
