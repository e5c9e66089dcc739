"""`python -m tokensieve` is the command line."""

from tokensieve.cli import main

if __name__ == "__main__":
    main()
