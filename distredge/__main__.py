"""`python -m distredge`: the command line."""

from distredge.cli.main import main

if __name__ == "__main__":
    main()
