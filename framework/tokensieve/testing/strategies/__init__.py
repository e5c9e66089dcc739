"""The conformance kit for strategies: the laws by concept, and the class of tests that tries them."""
