"""From a request to the tokens that a model reads.

prompt.py               PromptBuilder: renders and tokenizes
tokenizer.py            Tokenizer: linear time, stops early
template.py             ChatTemplate: the model's chat template
renderer.py             renders in a confined process
render_worker.py        that process
jinja_sandbox.py        compiles and renders Jinja templates
tools.py                tools, calls and results for the template
special_token_guard.py  keeps special tokens in callers' texts plain text
"""
