"""Short chat templates in the manner of well-known models' ones."""

from plugins.providers.llama_cpp.tool_calls.markers import (
    DEEPSEEK_CALL_BEGIN,
    DEEPSEEK_CALL_END,
    DEEPSEEK_CALLS_BEGIN,
    DEEPSEEK_CALLS_END,
    DEEPSEEK_SEPARATOR,
)

GEMMA = """{{ bos_token }}
{%- for m in messages %}
{%- set expected = 'assistant' if loop.index0 % 2 else 'user' %}
{%- if m.role != expected %}{{ raise_exception('must alternate') }}{% endif %}
{%- set role = 'model' if m.role == 'assistant' else 'user' %}
{{- '<start>' ~ role ~ '\n' ~ m.content | trim ~ '<end>\n' }}
{%- endfor %}
{{- '<start>model\n' if add_generation_prompt }}"""
# The system message becomes the beginning of the first turn, whoever speaks.
FOLDING = """{% set lead = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if lead else messages) %}
{%- set expected = 'assistant' if loop.index0 % 2 else 'user' %}
{%- if m.role != expected %}{{ raise_exception('must alternate') }}{% endif %}
{{- '<start>' ~ m.role ~ '\n' ~ (lead if loop.first) ~ m.content ~ '<end>\n' }}
{%- endfor %}"""
# Counts only turns of text; shows the system message and the tools in the last user turn.
MISTRAL = """{{ bos_token }}
{%- set lead = messages[0].content if messages[0].role == 'system' %}
{%- set rest = messages[1:] if lead else messages %}
{%- set asked = rest | selectattr('role', 'equalto', 'user') | list %}
{%- set spoken = rest | rejectattr('role', 'equalto', 'tool') %}
{%- set spoken = spoken | selectattr('tool_calls', 'undefined') %}
{%- for m in spoken %}
{%- set expected = 'assistant' if loop.index0 % 2 else 'user' %}
{%- if m.role != expected %}{{ raise_exception('must alternate') }}{% endif %}
{%- endfor %}
{%- for m in rest %}
{%- if m.role == 'user' %}
{%- if tools and m == asked[-1] %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{{- '[INST]' ~ (lead ~ '\n\n' if lead and loop.last) ~ m.content ~ '[/INST]' }}
{%- elif m.tool_calls is defined %}[TOOL_CALLS][
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
{{- ', ' if not loop.last }}
{%- endfor %}]{{ eos_token }}
{%- elif m.role == 'assistant' %}{{ m.content ~ eos_token }}
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- '[TOOL_RESULTS]' ~ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}
{%- else %}{{ raise_exception('unknown role ' ~ m.role) }}
{%- endif %}
{%- endfor %}"""
# Takes one call a turn and no text beside it; needs a first user message if there are tools.
LLAMA = """{{ bos_token }}
{%- macro head(role) %}<|head|>{{ role }}<|/head|>{% endmacro %}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if system else messages %}
{{- head('system') ~ system ~ '<|eot|>' }}
{%- if tools %}
{%- if not rest %}{{ raise_exception('no first message to put tools into') }}{% endif %}
{{- head('user') ~ tools | tojson ~ ' write {"name": , "parameters": }' }}
{{- rest[0].content ~ '<|eot|>' }}
{%- set rest = rest[1:] %}
{%- endif %}
{%- for m in rest %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- head('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' }}
{{- call.arguments | tojson ~ '}' }}
{%- elif m.role == 'tool' %}{{ head('ipython') ~ m.content | tojson }}
{%- else %}{{ head(m.role) ~ m.content }}
{%- endif %}<|eot|>
{%- endfor %}
{{- head('assistant') }}"""
CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
# Reads content as a list of parts only: of a plain text it shows nothing, and raises no error.
PARTS = """{% for m in messages %}<|im_start|>{{ m.role }}:
{%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}Assistant:"""
# Of several system messages the last one counts; calls must be without content.
DEEPSEEK = f"""{{% set ns = namespace(system='') %}}
{{%- for m in messages if m.role == 'system' %}}{{% set ns.system = m.content %}}{{% endfor %}}
{{{{- bos_token ~ ns.system }}}}
{{%- for m in messages %}}
{{%- if m.role == 'user' %}}{{{{ '<user>' ~ m.content }}}}
{{%- elif m.role == 'assistant' and m.content is none %}}{DEEPSEEK_CALLS_BEGIN}
{{%- for call in m.tool_calls %}}{DEEPSEEK_CALL_BEGIN}function{DEEPSEEK_SEPARATOR}
{{{{- call.function.name }}}}
```json
{{{{ call.function.arguments }}}}
```{DEEPSEEK_CALL_END}
{{%- endfor %}}{DEEPSEEK_CALLS_END}
{{%- elif m.role == 'assistant' %}}
{{{{- '<assistant>' ~ m.content.split('</think>')[-1] ~ eos_token }}}}
{{%- elif m.role == 'tool' %}}{{{{ '<output>' ~ m.content ~ '</output>' }}}}
{{%- endif %}}
{{%- endfor %}}<assistant>"""
# Says nothing about system messages, and leaves them out.
SILENT = """{% for m in messages %}
{%- if m.role == 'user' %}{{ '<|user|>' ~ m.content ~ '<|end|>' }}
{%- elif m.role == 'assistant' %}{{ '<|assistant|>' ~ m.content ~ '<|end|>' }}
{%- endif %}
{%- endfor %}<|assistant|>"""
# Refuses empty turns, and chats that end with the assistant's.
STRICT = """{% for m in messages %}
{%- if not m.content %}{{ raise_exception('empty message') }}{% endif %}
{%- set expected = 'assistant' if loop.index0 % 2 else 'user' %}
{%- if m.role != expected %}{{ raise_exception('must alternate') }}{% endif %}
{{- '[' ~ m.role ~ ']' ~ m.content }}
{%- if loop.last and m.role != 'user' %}{{ raise_exception('the user must be last') }}{% endif %}
{%- endfor %}"""

TEMPLATES = {
    "gemma": GEMMA,
    "folding": FOLDING,
    "mistral": MISTRAL,
    "llama": LLAMA,
    "chatml": CHATML,
    "parts": PARTS,
    "deepseek": DEEPSEEK,
    "silent": SILENT,
    "strict": STRICT,
}
