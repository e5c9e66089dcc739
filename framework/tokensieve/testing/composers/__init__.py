"""The conformance kit for composers: operands to try them on, the laws, and the class of tests that tries them."""
