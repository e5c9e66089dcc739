"""What servers with models of their own need of this library.

That is: which recipes they can run, how many tokens of a picture stay, known from its grid alone, and which, chosen
from its vectors. It knows no server and no model library.
"""
