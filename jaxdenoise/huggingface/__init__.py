"""Models of Hugging Face's transformers, in and out: weights, shape, tokenizer.

A family is data: which field of its config.json is which of ours, which tensor which parameter.
"""
