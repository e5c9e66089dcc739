"""The conformance kit for adapters of models that answer in words: laws as mixins, and what they share."""
