"""What plugin authors test with: random inputs, and the laws that everything must keep.

Needs hypothesis, which `import tokensieve` does not.
"""

from tokensieve.testing import generators, laws

__all__ = ["generators", "laws"]
