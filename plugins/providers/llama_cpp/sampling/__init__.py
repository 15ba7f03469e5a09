"""From logits to tokens and text.

vocabulary.py       facts about a model's vocabulary
logits.py           the logits of one position
chain.py            chains of llama.cpp's samplers
truncation.py       which tokens top-k, top-p and min-p keep
grammar_sampler.py  samples with a grammar
sampler.py          the sampler of a sequence
logprobs.py         log probabilities of sampled tokens
detokenizer.py      text from token bytes, cut at stop strings
"""
