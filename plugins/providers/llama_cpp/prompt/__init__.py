"""From a request to the tokens that a model reads.

prompt.py               PromptBuilder: renders and tokenizes
length_bound.py         how many tokens a chat has at least
tokenizer.py            Tokenizer: linear time, stops early
template.py             ChatTemplate: the model's chat template
template_facts.py       what a template takes
template_probe.py       finds that out when the model is loaded
message_normalizer.py   rewrites a chat into one that the template takes
renderer.py             renders in a confined process
render_worker.py        that process
jinja_sandbox.py        compiles and renders Jinja templates
tools.py                tools, calls and results for the template
special_token_guard.py  keeps special tokens in callers' texts plain text
"""
