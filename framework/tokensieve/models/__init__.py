"""The interface to model families: `Adapter`, `Decoder` and `Encoder`, which the author of an adapter subclasses."""
