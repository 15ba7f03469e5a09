"""From logits to tokens and text.

vocabulary.py   facts about a model's vocabulary
logits.py       the logits of one position
sampler.py      the sampler chain of a sequence
logprobs.py     log probabilities of sampled tokens
detokenizer.py  text from token bytes, cut at stop strings
"""
