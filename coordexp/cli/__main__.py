"""`python -m coordexp.cli` is `coordexp`, also where the package is not installed."""

from coordexp.cli.main import main

main()
